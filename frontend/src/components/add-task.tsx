import { type FormEvent, type KeyboardEvent, type RefObject, useId, useState } from "react";
import type { Problem, Words } from "@/api";
import { useDraft } from "@/use-stored";

type Props = {
  userId: string;
  add: (words: Words) => Promise<Problem | null>;
  titleRef: RefObject<HTMLInputElement | null>;
};

export function AddTask({ userId, add, titleRef }: Props) {
  const [draft, setDraft] = useDraft(`new:${userId}`);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const { title, description } = draft ?? { title: "", description: "" };

  async function submit(event: FormEvent) {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    const failure = await add({ title, description });
    setBusy(false);
    setProblem(failure);
    if (!failure) setDraft(null);
    titleRef.current?.focus();
  }

  return (
    <form onSubmit={submit} aria-label="Add a task" aria-busy={busy}>
      <div className="card flex items-end">
        <div className="min-w-0 flex-1">
          <WordsFields
            words={{ title, description }}
            setWords={setDraft}
            problem={problem}
            busy={busy}
            titleRef={titleRef}
            names={["New task", "Details"]}
          />
        </div>
        <button type="submit" className="button m-2" disabled={busy}>
          Add
        </button>
      </div>
      <Wrong problem={problem} />
    </form>
  );
}

type FieldsProps = {
  words: Words;
  setWords: (words: Words) => void;
  problem: Problem | null;
  busy?: boolean;
  titleRef?: RefObject<HTMLInputElement | null>;
  names: [string, string];
};

/** Title and description; what is wrong with one of them stands beneath it. */
export function WordsFields({ words, setWords, problem, busy, titleRef, names }: FieldsProps) {
  const id = useId();
  const wrong = problem?.fields ?? {};
  const attributes = (name: keyof Words) => ({
    id: `${id}-${name}`,
    value: words[name],
    readOnly: busy,
    "aria-invalid": Boolean(wrong[name]),
    "aria-describedby": wrong[name] ? `${id}-${name}-wrong` : undefined,
    onChange: (event: { target: { value: string } }) => setWords({ ...words, [name]: event.target.value }),
  });
  const reason = (name: keyof Words) =>
    wrong[name] && (
      <p id={`${id}-${name}-wrong`} role="alert" className="px-4 pb-2 text-sm text-wrong">
        {wrong[name]}
      </p>
    );
  return (
    <>
      <input
        ref={titleRef}
        className="bare pt-3.5 text-[1.0625rem]"
        aria-label={names[0]}
        placeholder="What is there to do?"
        autoComplete="off"
        {...attributes("title")}
      />
      {reason("title")}
      <textarea
        className="bare pb-2 text-[0.9375rem]"
        rows={1}
        aria-label={names[1]}
        placeholder="Details, if any"
        onKeyDown={sendOnEnter}
        {...attributes("description")}
      />
      {reason("description")}
    </>
  );
}

/** What is wrong and belongs to no field. */
export function Wrong({ problem }: { problem: Problem | null }) {
  const general = problem && !problem.fields.title && !problem.fields.description;
  return general ? (
    <p role="alert" className="px-4 pt-2 text-sm text-wrong">
      Not saved. {problem.message}
    </p>
  ) : null;
}

function sendOnEnter(event: KeyboardEvent<HTMLTextAreaElement>) {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  event.currentTarget.form?.requestSubmit();
}
