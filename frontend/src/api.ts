import createClient from "openapi-fetch";
import { authClient } from "./auth-client";
import type { components, paths } from "./api-types";

export type Task = components["schemas"]["TaskRead"];
export type Words = { title: string; description: string };

/** What went wrong, in words that can be shown; status 0 means that there was no answer. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail: string,
    readonly fields: Partial<Record<string, string>> = {},
  ) {
    super(detail);
  }

  /** Nothing is wrong with the request: it may succeed later. */
  get passing(): boolean {
    return this.status === 0 || this.status >= 500;
  }
}

const UNREACHABLE = "The server cannot be reached.";
const SIGNED_OUT = "Your session has ended. Please sign in again: nothing you typed is lost.";
const PATIENCE = 15_000;

type Token = { value: string; renewAt: number };

/** Hands out the user's access token, and renews it before it expires. */
function tokenSource(userId: string) {
  let current: Promise<Token> | null = null;

  async function request(): Promise<Token> {
    const { data, error } = await authClient.token({ fetchOptions: { timeout: PATIENCE } }).catch(() => {
      throw new Problem(0, UNREACHABLE);
    });
    if (error?.status === 401) throw new Problem(401, SIGNED_OUT);
    if (!data)
      throw new Problem(error?.status === 429 ? 503 : (error?.status ?? 0), "The sign-in service cannot be reached.");
    const claims = JSON.parse(atob(data.token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
    if (claims.sub !== userId) throw new Problem(401, "Someone else has signed in meanwhile. Please sign in again.");
    // Lifetime counts from now, so that a wrong clock in this machine does no harm.
    const lifetime = (claims.exp - claims.iat) * 1000;
    return { value: data.token, renewAt: Date.now() + lifetime - Math.min(60_000, lifetime / 4) };
  }

  return async function token(refused?: string): Promise<string> {
    const seen = current;
    const known = await seen?.catch(() => null);
    const usable = known && known.value !== refused && Date.now() < known.renewAt;
    // Whoever comes first asks; the others wait for the same answer.
    if (!usable && current === seen) current = request();
    return (await current!).value;
  };
}

export function createApi(baseUrl: string, userId: string) {
  const token = tokenSource(userId);

  async function send(request: Request, bearer: string): Promise<Response> {
    request.headers.set("Authorization", `Bearer ${bearer}`);
    try {
      return await fetch(request, { signal: AbortSignal.timeout(PATIENCE) });
    } catch {
      throw new Problem(0, UNREACHABLE);
    }
  }

  async function authorized(request: Request): Promise<Response> {
    const bearer = await token();
    const answer = await send(request.clone(), bearer);
    if (answer.status !== 401) return answer;
    const again = await send(request, await token(bearer));
    if (again.status === 401) throw new Problem(401, SIGNED_OUT);
    return again;
  }

  const client = createClient<paths>({ baseUrl, fetch: authorized });
  const user = { user_id: userId };

  return {
    list: () => unwrap(client.GET("/api/{user_id}/tasks", { params: { path: user } })),
    add: (body: Words) => unwrap(client.POST("/api/{user_id}/tasks", { params: { path: user }, body })),
    edit: (id: number, body: Words) =>
      unwrap(client.PUT("/api/{user_id}/tasks/{id}", { params: { path: { ...user, id } }, body })),
    toggle: (id: number) =>
      unwrap(client.PATCH("/api/{user_id}/tasks/{id}/complete", { params: { path: { ...user, id } } })),
    /** `keepalive` lets the request outlive the page. */
    remove: (id: number) =>
      unwrap(client.DELETE("/api/{user_id}/tasks/{id}", { params: { path: { ...user, id } }, keepalive: true })),
  };
}

export type Api = ReturnType<typeof createApi>;

async function unwrap<T>(answer: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  const { data, error, response } = await answer;
  if (response.ok) return data as T;
  const { detail, errors = [] } = (error || {}) as Partial<components["schemas"]["ValidationProblemRead"]>;
  const fields = Object.fromEntries(errors.map(({ loc, msg }) => [String(loc.at(-1)), msg]));
  throw new Problem(
    response.status,
    typeof detail === "string" ? detail : `The server answered ${response.status}.`,
    fields,
  );
}
