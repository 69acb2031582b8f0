// What does a person experience? Each story is a real browser on the whole application.
import assert from "node:assert/strict";
import { BACKEND, FRONTEND_HS256, order, story } from "./person.mjs";

story("a list survives a reload, and its tasks are edited, completed and deleted", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  await ada.signUp();
  await ada.reads("Nothing to do yet");
  await ada.add("Buy milk", "Two bottles");
  await ada.add("Call the plumber");

  await page.reload();
  await ada.sees("Call the plumber", "Buy milk");
  await ada.reads("Two bottles");

  await page.getByRole("button", { name: "Edit “Buy milk”" }).click();
  await page.getByLabel("Title").fill("Buy oat milk");
  assert.equal(await ada.answered("PUT", () => page.getByRole("button", { name: "Save" }).click()), 200);
  await ada.sees("Call the plumber", "Buy oat milk");

  assert.equal(await ada.answered("PATCH", () => ada.task("Buy oat milk").click()), 200);
  await ada.sees("Call the plumber", "✓ Buy oat milk");
  for (const [name, ...titles] of [["Done 1", "✓ Buy oat milk"], ["Active 1", "Call the plumber"]]) {
    await page.getByRole("button", { name, exact: true }).click();
    await ada.sees(...titles);
  }
  await page.getByRole("button", { name: "All 2" }).click();

  await page.getByRole("button", { name: "Delete “Call the plumber”" }).click();
  await ada.sees("✓ Buy oat milk");
  await page.getByRole("button", { name: "Undo" }).click();
  await ada.sees("Call the plumber", "✓ Buy oat milk");
  const deletion = () => page.getByRole("button", { name: "Delete “Call the plumber”" }).click();
  assert.equal(await ada.answered("DELETE", deletion), 204);

  await page.reload();
  await ada.sees("✓ Buy oat milk");
});
