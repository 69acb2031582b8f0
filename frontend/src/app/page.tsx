import { headers } from "next/headers";
import { auth } from "@/auth";
import { Todo } from "@/components/todo";
import { Unavailable } from "@/components/unavailable";

export default async function Page() {
  const session = await auth.api.getSession({ headers: await headers() }).catch(() => undefined);
  if (session === undefined) return <Unavailable />;
  const user = session && { id: session.user.id, name: session.user.name };
  return <Todo initialUser={user} apiUrl={process.env.API_URL ?? "http://localhost:8000"} />;
}
