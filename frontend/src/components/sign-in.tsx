import { type FormEvent, useState } from "react";
import { authClient, type User } from "@/auth-client";
import { Field } from "./field";

type Fault = { field?: "name" | "email" | "password"; message: string };

export function SignIn({ reason, onSignedIn }: { reason: string | null; onSignedIn: (user: User) => void }) {
  const [joining, setJoining] = useState(false);
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<Fault | null>(null);

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = Object.fromEntries(new FormData(event.currentTarget)) as Record<"name" | "email" | "password", string>;
    setBusy(true);
    setFault(null);
    const answer = await (joining ? authClient.signUp.email(form) : authClient.signIn.email(form)).catch(() => null);
    setBusy(false);
    if (answer?.data) onSignedIn(answer.data.user);
    else setFault(explain(answer?.error ?? { status: 0 }));
  }

  const at = (field: Fault["field"]) => (fault?.field === field ? fault?.message : undefined);
  return (
    <main className="page grid min-h-dvh max-w-sm content-center">
      <h1 className="display text-5xl">Todo</h1>
      <p role={reason ? "alert" : undefined} className="mt-2 mb-8 text-quiet">
        {reason ?? "A quiet list of what there is to do."}
      </p>
      <form onSubmit={submit} aria-label={joining ? "Sign up" : "Sign in"} noValidate>
        {joining && <Field label="Name" name="name" autoComplete="name" required maxLength={100} error={at("name")} />}
        <Field label="E-mail" name="email" type="email" autoComplete="email" required error={at("email")} />
        <Field
          label="Password"
          name="password"
          type="password"
          autoComplete={joining ? "new-password" : "current-password"}
          required
          error={at("password")}
        />
        <button type="submit" className="button mt-2 w-full" disabled={busy}>
          {joining ? "Sign up" : "Sign in"}
        </button>
        <p role="alert" className="min-h-14 pt-3 text-sm text-wrong">
          {fault && !fault.field ? fault.message : null}
        </p>
      </form>
      <p className="text-sm text-quiet">
        {joining ? "You have an account? " : "New here? "}
        <button
          type="button"
          className="link"
          onClick={() => {
            setJoining(!joining);
            setFault(null);
          }}
        >
          {joining ? "Sign in" : "Sign up"}
        </button>
      </p>
    </main>
  );
}

function explain({ status, code, message }: { status: number; code?: string; message?: string }): Fault {
  if (status === 0 || status >= 500) return { message: "The server cannot be reached. Please try again in a moment." };
  const words = message ?? `The server answered ${status}.`;
  if (/PASSWORD/.test(code ?? "") && !/EMAIL/.test(code ?? "")) return { field: "password", message: words };
  if (/USER_ALREADY_EXISTS|INVALID_EMAIL$/.test(code ?? "") || (/email/i.test(words) && !/password/i.test(words)))
    return { field: "email", message: words };
  return { message: words };
}
