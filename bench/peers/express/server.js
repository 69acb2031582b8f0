// Express 5 with Drizzle, zod and jsonwebtoken, as their documentation writes them. Of the two drivers that Drizzle's
// documentation offers this is the first, node-postgres; what is always the same is prepared, as its page on
// performance advises.
import { and, desc, eq, not, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { bigint, boolean, pgTable, text, timestamp, varchar } from 'drizzle-orm/pg-core'
import express from 'express'
import jwt from 'jsonwebtoken'
import pg from 'pg'
import { z } from 'zod'

const { BETTER_AUTH_SECRET, BETTER_AUTH_URL, NEON_DATABASE_URL, POOL_SIZE, PORT } = process.env

const pool = new pg.Pool({ connectionString: NEON_DATABASE_URL, max: Number(POOL_SIZE) })
const db = drizzle({ client: pool })

const tasks = pgTable('task', {
  id: bigint({ mode: 'number' }).primaryKey().generatedByDefaultAsIdentity(),
  user_id: text().notNull(),
  title: varchar({ length: 200 }).notNull(),
  description: varchar({ length: 1000 }),
  completed: boolean().notNull().default(false),
  created_at: timestamp({ withTimezone: true }).notNull().defaultNow(),
  updated_at: timestamp({ withTimezone: true }).notNull().defaultNow()
})

const given = sql.placeholder
const now = sql`now()`
const thisTask = and(eq(tasks.id, given('id')), eq(tasks.user_id, given('user_id')))
const list = db.select().from(tasks).where(eq(tasks.user_id, given('user_id')))
  .orderBy(desc(tasks.created_at), desc(tasks.id)).prepare('list')
const create = db.insert(tasks).values({
  user_id: given('user_id'), title: given('title'), description: given('description'), completed: given('completed')
}).returning().prepare('create')
const read = db.select().from(tasks).where(thisTask).prepare('read')
const toggle = db.update(tasks).set({ completed: not(tasks.completed), updated_at: now }).where(thisTask)
  .returning().prepare('toggle')
const remove = db.delete(tasks).where(thisTask).returning({ id: tasks.id }).prepare('remove')

const title = z.string().max(200).regex(/\S/)
const description = z.string().max(1000).nullable()
const TaskCreate = z.object({ title, description: description.default(null), completed: z.boolean().default(false) })
const TaskUpdate = z.object({ title, description, completed: z.boolean() }).partial()
const Id = z.coerce.number().int().positive()

class Refused extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

function authorize(req, res, next) {
  const [scheme, token] = req.headers.authorization?.split(' ') ?? []
  if (scheme !== 'Bearer') throw new Refused(401, 'Not authenticated')
  let claims
  try {
    claims = jwt.verify(token, BETTER_AUTH_SECRET, {
      algorithms: ['HS256'], issuer: BETTER_AUTH_URL, audience: BETTER_AUTH_URL
    })
  } catch {
    throw new Refused(401, 'Invalid token')
  }
  if (!claims.exp || !claims.sub) throw new Refused(401, 'Invalid token')
  if (claims.sub !== req.params.user_id) throw new Refused(403, 'Not your tasks')
  next()
}

function found([row]) {
  if (!row) throw new Refused(404, 'Task not found')
  return row
}

function parsed(schema, value) {
  const { success, data, error } = schema.safeParse(value)
  if (!success) throw new Refused(400, z.prettifyError(error))
  return data
}

function key({ params }) {
  return { user_id: params.user_id, id: parsed(Id, params.id) }
}

const app = express()
app.disable('x-powered-by')
app.use('/api/:user_id/tasks', authorize, express.json())

app.route('/api/:user_id/tasks')
  .get(async (req, res) => {
    res.json(await list.execute({ user_id: req.params.user_id }))
  })
  .post(async (req, res) => {
    const body = parsed(TaskCreate, req.body)
    res.status(201).json(found(await create.execute({ ...body, user_id: req.params.user_id })))
  })

app.route('/api/:user_id/tasks/:id')
  .get(async (req, res) => {
    res.json(found(await read.execute(key(req))))
  })
  .put(async (req, res) => {
    const { user_id, id } = key(req)
    const changes = parsed(TaskUpdate, req.body)
    const mine = and(eq(tasks.id, id), eq(tasks.user_id, user_id))
    res.json(found(await db.update(tasks).set({ ...changes, updated_at: now }).where(mine).returning()))
  })
  .delete(async (req, res) => {
    found(await remove.execute(key(req)))
    res.status(204).end()
  })

app.patch('/api/:user_id/tasks/:id/complete', async (req, res) => {
  res.json(found(await toggle.execute(key(req))))
})

app.use((error, req, res, next) => {
  const status = error.status ?? 500
  if (status >= 500) console.error(error)
  res.status(status).json({ detail: status >= 500 ? 'Internal server error' : error.message })
})

app.listen(Number(PORT), '127.0.0.1')
