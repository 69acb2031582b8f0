import { useCallback, useEffect, useRef, useState } from "react";
import { type Api, Problem, type Task, type Words } from "./api";

const UNDO_SECONDS = 5;
const RETRY_SECONDS = [1, 2, 4, 8];
const DELETING = "deleting";

/** The list as the person sees it: changes show at once, and are taken back when the server does not accept them. */
export function useTasks(api: Api, onSignedOut: (reason: string) => void) {
  const [tasks, setTasks] = useState<Task[] | null>(null);
  const [away, setAway] = useState<string | null>(null);
  const [notice, setNotice] = useState<string | null>(null);
  const [deleted, setDeleted] = useState<Task | null>(null);
  const pending = useRef<Task | null>(null);
  const changes = useRef({ begun: 0, underWay: 0 });
  const last = useRef(new Map<number, Promise<unknown>>());

  const tracked = useCallback(<T>(request: Promise<T>): Promise<T> => {
    changes.current.begun++;
    changes.current.underWay++;
    return request.finally(() => changes.current.underWay--);
  }, []);

  const failed = useCallback(
    (problem: unknown): Problem => {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.status === 401) onSignedOut(problem.message);
      else if (problem.passing) setAway(problem.message);
      return problem;
    },
    [onSignedOut],
  );

  const load = useCallback(async () => {
    const { begun } = changes.current;
    try {
      const list = await api.list();
      setAway(null);
      // A list that was asked for before a change was answered would undo it on the screen.
      if (changes.current.underWay || changes.current.begun !== begun) setTimeout(() => void load(), 300);
      else setTasks(list.filter((task) => task.id !== pending.current?.id));
    } catch (problem) {
      if (!failed(problem).passing) setAway((problem as Problem).message);
    }
  }, [api, failed]);

  useEffect(() => {
    // A deletion that the last page could not send any more.
    const unsent = Number(sessionStorage.getItem(DELETING));
    sessionStorage.removeItem(DELETING);
    void (unsent ? api.remove(unsent).catch(failed) : Promise.resolve()).then(load);
    const seen = () => document.visibilityState === "visible" && void load();
    const offline = () => setAway("You are offline.");
    document.addEventListener("visibilitychange", seen);
    window.addEventListener("online", seen);
    window.addEventListener("offline", offline);
    return () => {
      document.removeEventListener("visibilitychange", seen);
      window.removeEventListener("online", seen);
      window.removeEventListener("offline", offline);
    };
  }, [api, failed, load]);

  useEffect(() => {
    if (!away) return;
    let attempt = 0;
    let over = false;
    const retry = async () => {
      await new Promise((wake) => setTimeout(wake, 1000 * RETRY_SECONDS[Math.min(attempt++, 3)]!));
      if (over) return;
      await load();
      void retry();
    };
    void retry();
    return () => {
      over = true;
    };
  }, [away, load]);

  const put = (id: number, change: Partial<Task>) =>
    setTasks((list) => list?.map((task) => (task.id === id ? { ...task, ...change } : task)) ?? null);

  /** One after the other for each task, so that the last word is the person's. */
  function inTurn<T>(id: number, request: () => Promise<T>): Promise<T> {
    const turn = tracked((last.current.get(id) ?? Promise.resolve()).catch(() => {}).then(request));
    last.current.set(id, turn);
    return turn;
  }

  async function change(task: Task, shown: Partial<Task>, request: () => Promise<Task>): Promise<Problem | null> {
    put(task.id, shown);
    const turn = inTurn(task.id, request);
    const mine = last.current.get(task.id);
    try {
      const answer = await turn;
      if (last.current.get(task.id) === mine) put(task.id, answer);
      return null;
    } catch (error) {
      const problem = failed(error);
      if (problem.status === 404) setTasks((list) => list?.filter(({ id }) => id !== task.id) ?? null);
      else put(task.id, Object.fromEntries(Object.keys(shown).map((name) => [name, task[name as keyof Task]])));
      return problem;
    }
  }

  async function add(words: Words): Promise<Problem | null> {
    const now = new Date().toISOString();
    const shown: Task = { ...words, id: -1, user_id: "", completed: false, created_at: now, updated_at: now };
    setTasks((list) => list && [shown, ...list]);
    try {
      const task = await tracked(api.add(words));
      setTasks((list) => list?.map((each) => (each.id === shown.id ? task : each)) ?? null);
      return null;
    } catch (error) {
      setTasks((list) => list?.filter(({ id }) => id !== shown.id) ?? null);
      return failed(error);
    }
  }

  async function toggle(task: Task): Promise<void> {
    const problem = await change(task, { completed: !task.completed }, () => api.toggle(task.id));
    if (problem) setNotice(`“${task.title}” was not changed. ${problem.message}`);
  }

  const edit = (task: Task, words: Words) => change(task, words, () => api.edit(task.id, words));

  function giveBack(task: Task) {
    setTasks((list) => [...(list ?? []).filter(({ id }) => id !== task.id), task].sort(newestFirst));
  }

  const settleDeleted = useCallback(async () => {
    const task = pending.current;
    if (!task) return;
    pending.current = null;
    setDeleted(null);
    try {
      await tracked(api.remove(task.id));
      forget(task);
    } catch (error) {
      forget(task);
      const problem = failed(error);
      if (problem.status === 404) return;
      giveBack(task);
      setNotice(`“${task.title}” was not deleted. ${problem.message}`);
    }
  }, [api, failed, tracked]);

  function remove(task: Task): void {
    void settleDeleted();
    pending.current = task;
    sessionStorage.setItem(DELETING, String(task.id));
    setDeleted(task);
    setTasks((list) => list?.filter(({ id }) => id !== task.id) ?? null);
  }

  function undo(): void {
    if (!pending.current) return;
    giveBack(pending.current);
    forget(pending.current);
    pending.current = null;
    setDeleted(null);
  }

  useEffect(() => {
    const leave = () => void settleDeleted();
    window.addEventListener("pagehide", leave);
    return () => window.removeEventListener("pagehide", leave);
  }, [settleDeleted]);

  return {
    tasks,
    away,
    notice,
    deleted,
    undoSeconds: UNDO_SECONDS,
    add,
    edit,
    toggle,
    remove,
    undo,
    settleDeleted,
    say: setNotice,
  };
}

const newestFirst = (a: Task, b: Task) => b.created_at.localeCompare(a.created_at) || b.id - a.id;

function forget(task: Task) {
  if (sessionStorage.getItem(DELETING) === String(task.id)) sessionStorage.removeItem(DELETING);
}
