"use client";

import { useCallback, useState } from "react";
import { authClient, type User } from "@/auth-client";
import { Board } from "./board";
import { SignIn } from "./sign-in";

/** Who is here? Nobody: the sign-in; somebody: their list. */
export function Todo({ initialUser, apiUrl }: { initialUser: User | null; apiUrl: string }) {
  const [user, setUser] = useState(initialUser);
  const [reason, setReason] = useState<string | null>(null);

  const onSignedOut = useCallback((why: string) => {
    setReason(why);
    setUser(null);
  }, []);

  async function signOut(): Promise<boolean> {
    const answer = await authClient.signOut().catch(() => null);
    if (!answer?.data) return false;
    setReason(null);
    setUser(null);
    return true;
  }

  if (!user) return <SignIn reason={reason} onSignedIn={setUser} />;
  return (
    <Board
      key={user.id}
      user={user}
      apiUrl={apiUrl}
      arriving={user !== initialUser}
      onSignedOut={onSignedOut}
      signOut={signOut}
    />
  );
}
