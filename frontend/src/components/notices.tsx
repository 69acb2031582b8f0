import { useEffect, useState } from "react";
import type { useTasks } from "@/use-tasks";

type List = ReturnType<typeof useTasks>;

/** What the person should know now, at the foot of the window: nothing on the page moves for it. */
export function Notices({ list }: { list: List }) {
  const [held, setHeld] = useState(false);
  const { deleted, notice, undoSeconds, settleDeleted } = list;

  useEffect(() => {
    if (!deleted || held) return;
    const timer = setTimeout(() => void settleDeleted(), undoSeconds * 1000);
    return () => clearTimeout(timer);
  }, [deleted, held, undoSeconds, settleDeleted]);
  useEffect(() => setHeld(false), [deleted]);

  return (
    <div className="pointer-events-none fixed inset-x-0 bottom-0 z-10 grid justify-items-center gap-2 p-4">
      <div role="alert">
        {notice && (
          <div className="notice">
            {notice}
            <button type="button" className="notice-button" onClick={() => list.say(null)}>
              Close
            </button>
          </div>
        )}
      </div>
      <div role="status">
        {deleted && (
          <div
            className="notice"
            onMouseEnter={() => setHeld(true)}
            onMouseLeave={() => setHeld(false)}
            onFocus={() => setHeld(true)}
            onBlur={() => setHeld(false)}
          >
            <span className="truncate">“{deleted.title}” deleted</span>
            <button type="button" className="notice-button" onClick={list.undo}>
              Undo
            </button>
          </div>
        )}
      </div>
      <div role="status">{list.away && <div className="notice">{list.away} Trying again …</div>}</div>
    </div>
  );
}
