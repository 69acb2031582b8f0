import Link from "next/link";

export default function NotFound() {
  return (
    <main className="page grid min-h-dvh content-center text-center">
      <h1 className="display text-4xl">Nothing here</h1>
      <p className="mt-3 text-quiet">
        There is no such page.{" "}
        <Link href="/" className="link">
          To the list
        </Link>
      </p>
    </main>
  );
}
