"use client";

import { useRouter } from "next/navigation";
import { useEffect } from "react";

export function Unavailable() {
  const router = useRouter();
  useEffect(() => {
    const timer = setInterval(() => router.refresh(), 2_000);
    return () => clearInterval(timer);
  }, [router]);
  return (
    <main className="page grid min-h-dvh content-center text-center">
      <h1 className="display text-4xl">One moment</h1>
      <p role="status" className="mt-3 text-quiet">
        Your list cannot be reached just now. This page tries again by itself.
      </p>
    </main>
  );
}
