import { type RefObject, useEffect } from "react";
import { useStored } from "@/use-stored";

type Places = {
  title: RefObject<HTMLInputElement | null>;
  search: RefObject<HTMLInputElement | null>;
  rows: RefObject<HTMLUListElement | null>;
  undo: () => void;
};

/** Single keys for those who want them: off where somebody types, and off altogether on request (WCAG 2.1.4). */
export function useShortcuts({ title, search, rows, undo }: Places) {
  const [stored, store] = useStored("localStorage", "shortcuts");
  const on = stored !== "off";

  useEffect(() => {
    function onKeyDown(event: KeyboardEvent) {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const leaving = target === title.current || target === search.current;
      if (leaving && event.key === "Escape") target.blur();
      const typing = target.matches("textarea, input:not([type=checkbox])");
      if (typing && !(leaving && event.key === "ArrowDown")) return;
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        const boxes = [...(rows.current?.querySelectorAll<HTMLElement>("[data-row]") ?? [])];
        const here = boxes.findIndex((box) => box.closest("li")?.contains(target));
        const next = here < 0 ? boxes[0] : boxes[here + (event.key === "ArrowDown" ? 1 : -1)];
        if (!next) return;
        next.focus();
      } else if (on && event.key === "n") title.current?.focus();
      else if (on && event.key === "/") search.current?.focus();
      else if (on && event.key === "z") undo();
      else return;
      event.preventDefault();
    }
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [on, title, search, rows, undo]);

  return { on, toggle: () => store(on ? "off" : null) };
}

const KEYS = [
  ["n", "new task"],
  ["/", "search"],
  ["↑ ↓", "move"],
  ["space", "done"],
  ["e", "edit"],
  ["del", "delete"],
  ["z", "undo"],
] as const;

export function Shortcuts({ on, toggle }: { on: boolean; toggle: () => void }) {
  return (
    <footer className="keys">
      {KEYS.map(([key, meaning]) => (
        <span key={key}>
          <kbd>{key}</kbd> {meaning}
        </span>
      ))}
      <label className="flex w-full items-center gap-2">
        <input type="checkbox" checked={on} onChange={toggle} className="accent-accent" /> Use these keys
      </label>
    </footer>
  );
}
