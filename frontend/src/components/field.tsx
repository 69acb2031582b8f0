import { type ComponentProps, useId } from "react";

type Props = ComponentProps<"input"> & { label: string; error?: string };

/** An input with its label above and, when something is wrong with it, the reason below. */
export function Field({ label, error, ...input }: Props) {
  const id = useId();
  return (
    <div>
      <label htmlFor={id} className="mb-1.5 block text-sm font-medium">
        {label}
      </label>
      <input id={id} className="field" aria-invalid={Boolean(error)} aria-describedby={`${id}-error`} {...input} />
      <p id={`${id}-error`} className="min-h-6 pt-1 text-sm text-wrong">
        {error}
      </p>
    </div>
  );
}
