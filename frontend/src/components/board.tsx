import { useEffect, useMemo, useRef, useState } from "react";
import { createApi } from "@/api";
import type { User } from "@/auth-client";
import { useTasks } from "@/use-tasks";
import { AddTask } from "./add-task";
import { Notices } from "./notices";
import { Shortcuts, useShortcuts } from "./shortcuts";
import { TaskRow } from "./task-row";

const VIEWS = ["all", "active", "done"] as const;
type View = (typeof VIEWS)[number];
type Props = {
  user: User;
  apiUrl: string;
  /** The person has just signed in on this page. */
  arriving: boolean;
  onSignedOut: (reason: string) => void;
  signOut: () => Promise<boolean>;
};

export function Board({ user, apiUrl, arriving, onSignedOut, signOut }: Props) {
  const api = useMemo(() => createApi(apiUrl, user.id), [apiUrl, user.id]);
  const list = useTasks(api, onSignedOut);
  const [view, setView] = useState<View>("all");
  const [search, setSearch] = useState("");
  const title = useRef<HTMLInputElement>(null);
  const searchField = useRef<HTMLInputElement>(null);
  const rows = useRef<HTMLUListElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const shortcuts = useShortcuts({ title, search: searchField, rows, undo: list.undo });

  const tasks = list.tasks ?? [];
  const done = tasks.filter((task) => task.completed).length;
  const counts = { all: tasks.length, active: tasks.length - done, done };
  const words = search.trim().toLowerCase();
  const shown = tasks.filter(
    (task) =>
      (view === "all" || task.completed === (view === "done")) &&
      `${task.title}\n${task.description ?? ""}`.toLowerCase().includes(words),
  );

  useEffect(() => {
    if (arriving) heading.current?.focus();
  }, [arriving]);

  async function leave() {
    await list.settleDeleted();
    if (!(await signOut())) list.say("You are still signed in. The server cannot be reached.");
  }

  // When the row with the focus goes, the focus stays in its place instead of falling to the top of the page.
  const focused = useRef<number | null>(null);
  useEffect(() => {
    if (focused.current === null || document.activeElement !== document.body) return;
    const boxes = rows.current?.querySelectorAll<HTMLElement>("[data-row]") ?? [];
    (boxes[Math.min(focused.current, boxes.length - 1)] ?? title.current)?.focus();
  }, [shown.length]);

  return (
    <div className="page pb-32">
      <header className="flex items-center justify-between pt-6 text-sm text-quiet">
        <span className="truncate">{user.name}</span>
        <button type="button" className="link shrink-0" onClick={() => void leave()}>
          Sign out
        </button>
      </header>
      <main>
        <h1 ref={heading} tabIndex={-1} className="display mt-8 mb-6 text-5xl outline-none">
          Todo
        </h1>
        <AddTask userId={user.id} add={list.add} titleRef={title} />
        <div className="mt-8 mb-2 flex flex-wrap items-center justify-between gap-x-6 gap-y-2">
          <div role="group" aria-label="Show" className="-ml-3 flex">
            {VIEWS.map((each) => (
              <button
                key={each}
                type="button"
                className="tab"
                aria-pressed={view === each}
                onClick={() => setView(each)}
              >
                {each[0]!.toUpperCase() + each.slice(1)}{" "}
                <span className="tabular-nums">{list.tasks ? counts[each] : "\u2007"}</span>
              </button>
            ))}
          </div>
          <input
            ref={searchField}
            type="search"
            className="search"
            aria-label="Search"
            placeholder="Search"
            value={search}
            onChange={(event) => setSearch(event.target.value)}
            onKeyDown={(event) => event.key === "Escape" && setSearch("")}
          />
        </div>
        {list.tasks === null ? (
          <Loading />
        ) : (
          <ul
            ref={rows}
            role="list"
            aria-label="Tasks"
            onFocus={(event) => {
              focused.current = [...event.currentTarget.children].findIndex((row) => row.contains(event.target));
            }}
            onBlur={(event) => event.relatedTarget && (focused.current = null)}
          >
            {shown.map((task) => (
              <TaskRow key={task.id} task={task} list={list} />
            ))}
          </ul>
        )}
        {list.tasks && shown.length === 0 && <p className="empty">{emptyWords(tasks.length, view, words)}</p>}
      </main>
      {list.tasks && <Shortcuts {...shortcuts} />}
      <Notices list={list} />
    </div>
  );
}

function emptyWords(total: number, view: View, words: string): string {
  if (total === 0) return "Nothing to do yet. Write down the first thing.";
  if (words) return "Nothing matches this search.";
  return view === "done" ? "Nothing is done yet." : "Everything is done.";
}

function Loading() {
  return (
    <div role="status" aria-label="Loading the tasks" className="py-2">
      {["w-2/3", "w-1/2", "w-3/5"].map((width) => (
        <div key={width} className="flex h-14 items-center gap-3.5 border-b border-line">
          <span className="size-5 rounded-full bg-line" />
          <span className={`h-3 rounded bg-line ${width}`} />
        </div>
      ))}
    </div>
  );
}
