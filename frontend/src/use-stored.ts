import { useCallback, useMemo, useSyncExternalStore } from "react";
import type { Words } from "./api";

const listeners = new Set<() => void>();
const subscribe = (listener: () => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

/** A text in the browser's storage; on the server, and where there is none, null. */
export function useStored(place: "localStorage" | "sessionStorage", key: string) {
  const value = useSyncExternalStore(
    subscribe,
    () => window[place].getItem(key),
    () => null,
  );
  const keep = useCallback(
    (next: string | null) => {
      if (next === null) window[place].removeItem(key);
      else window[place].setItem(key, next);
      for (const listener of listeners) listener();
    },
    [place, key],
  );
  return [value, keep] as const;
}

/** What somebody is typing, kept over reloads and sign-ins as long as the tab lives; null is nothing. */
export function useDraft(key: string): [Words | null, (words: Words | null) => void] {
  const [text, keep] = useStored("sessionStorage", key);
  const draft = useMemo<Words | null>(() => JSON.parse(text ?? "null"), [text]);
  return [draft, useCallback((words) => keep(words && JSON.stringify(words)), [keep])];
}
