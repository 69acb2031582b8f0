import { useCallback, useState } from "react";
import type { Words } from "./api";

const read = (key: string): Words | null => JSON.parse(sessionStorage.getItem(key) ?? "null");

/** What somebody is typing, kept over reloads and sign-ins as long as the tab lives; null is nothing. */
export function useDraft(key: string): [Words | null, (words: Words | null) => void] {
  const [draft, setDraft] = useState<Words | null>(() => read(key));
  const keep = useCallback(
    (words: Words | null) => {
      if (words) sessionStorage.setItem(key, JSON.stringify(words));
      else sessionStorage.removeItem(key);
      setDraft(words);
    },
    [key],
  );
  return [draft, keep];
}
