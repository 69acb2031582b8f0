import { type KeyboardEvent, useRef, useState } from "react";
import type { Problem, Task } from "@/api";
import { useDraft } from "@/use-stored";
import type { useTasks } from "@/use-tasks";
import { WordsFields, Wrong } from "./add-task";

type List = Pick<ReturnType<typeof useTasks>, "toggle" | "edit" | "remove">;

export function TaskRow({ task, list }: { task: Task; list: List }) {
  const [draft, setDraft] = useDraft(`edit:${task.id}`);
  const [editing, setEditing] = useState(draft !== null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const box = useRef<HTMLInputElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const saving = task.id < 0;
  const now = { title: task.title, description: task.description ?? "" };

  function edit() {
    if (saving) return;
    setEditing(true);
    setTimeout(() => field.current?.focus());
  }

  function close() {
    setEditing(false);
    setProblem(null);
    setTimeout(() => box.current?.focus());
  }

  function cancel() {
    setDraft(null);
    close();
  }

  async function save() {
    const words = draft ?? now;
    close();
    const failure =
      words.title === now.title && words.description === now.description ? null : await list.edit(task, words);
    if (!failure) return setDraft(null);
    setProblem(failure);
    edit();
  }

  function onKeyDown(event: KeyboardEvent<HTMLLIElement>) {
    if (editing) {
      if (event.key === "Escape") cancel();
    } else if (event.key === "e" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      edit();
    } else if (event.key === "Delete" && !saving) list.remove(task);
  }

  if (editing)
    return (
      <li className="border-b border-line py-2" onKeyDown={onKeyDown}>
        <form
          className="card"
          aria-label={`Edit “${task.title}”`}
          onSubmit={(event) => {
            event.preventDefault();
            void save();
          }}
        >
          <WordsFields
            words={draft ?? now}
            setWords={setDraft}
            problem={problem}
            titleRef={field}
            names={["Title", "Details"]}
          />
          <Wrong problem={problem} />
          <div className="flex justify-end gap-2 p-2 pt-0">
            <button type="button" className="quiet-button" onClick={cancel}>
              Cancel
            </button>
            <button type="submit" className="button">
              Save
            </button>
          </div>
        </form>
      </li>
    );
  return (
    <li className={`row group ${saving ? "opacity-70" : ""}`} aria-busy={saving} onKeyDown={onKeyDown}>
      <label className="-m-2 shrink-0 p-2">
        <input
          ref={box}
          data-row
          type="checkbox"
          className="tick"
          aria-label={task.title}
          checked={task.completed}
          disabled={saving}
          onChange={() => void list.toggle(task)}
        />
      </label>
      <div className="min-w-0 flex-1 py-3.5" onDoubleClick={edit}>
        <p className={`words ${task.completed ? "text-quiet line-through decoration-edge" : ""}`}>{task.title}</p>
        {task.description && (
          <p className="words mt-0.5 text-[0.9375rem] text-pretty whitespace-pre-line text-quiet">{task.description}</p>
        )}
      </div>
      <div className="actions">
        <IconButton verb="Edit" {...{ task, saving }} onClick={edit} shape={PENCIL} />
        <IconButton verb="Delete" {...{ task, saving }} onClick={() => list.remove(task)} shape={BIN} />
      </div>
    </li>
  );
}

const PENCIL = "M4 16l.8-3.4 8.4-8.4a1.4 1.4 0 0 1 2 0l.6.6a1.4 1.4 0 0 1 0 2l-8.4 8.4L4 16z";
const BIN = "M4 6h12M8.2 6V4.2h3.6V6M5.6 6l.7 10h7.4l.7-10";
type IconProps = { verb: string; task: Task; saving: boolean; onClick: () => void; shape: string };

function IconButton({ verb, task, saving, onClick, shape }: IconProps) {
  const label = `${verb} “${task.title}”`;
  return (
    <button type="button" className="icon-button" title={verb} aria-label={label} onClick={onClick} disabled={saving}>
      <svg viewBox="0 0 20 20" aria-hidden="true">
        <path d={shape} />
      </svg>
    </button>
  );
}
