import type { Metadata, Viewport } from "next";
import localFont from "next/font/local";
import { connection } from "next/server";
import type { ReactNode } from "react";
import "./globals.css";

const text = localFont({
  src: "../../node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2",
  weight: "100 900",
  variable: "--font-text",
});
const display = localFont({
  src: "../../node_modules/@fontsource-variable/newsreader/files/newsreader-latin-wght-normal.woff2",
  weight: "200 800",
  variable: "--font-display",
  adjustFontFallback: "Times New Roman",
});

export const metadata: Metadata = { title: "Todo", description: "A quiet list of what there is to do." };
export const viewport: Viewport = {
  themeColor: [
    { media: "(prefers-color-scheme: light)", color: "#faf8f5" },
    { media: "(prefers-color-scheme: dark)", color: "#171614" },
  ],
};

export default async function Layout({ children }: { children: ReactNode }) {
  await connection(); // A page that was made beforehand could not carry the nonce of its answer.
  return (
    <html lang="en" className={`${text.variable} ${display.variable}`}>
      <body>{children}</body>
    </html>
  );
}
