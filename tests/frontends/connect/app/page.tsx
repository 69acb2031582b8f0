"use client";

import { useEffect } from "react";
import * as tasks from "@/tasks";

/** Hands the document's tasks.ts to visit.mjs. */
export default function Page() {
  useEffect(() => void Object.assign(globalThis, { tasks }), []);
  return <h1>A frontend</h1>;
}
