import { jwtClient } from "better-auth/client/plugins";
import { createAuthClient } from "better-auth/react";

/** Who is signed in, as far as the page shows it. */
export type User = { id: string; name: string };

export const authClient = createAuthClient({ plugins: [jwtClient()] });
