// Fastify as its documentation writes it: schemas for what comes in and goes out, fast-jwt with its cache, postgres.js.
import { createVerifier } from 'fast-jwt'
import Fastify from 'fastify'
import postgres from 'postgres'

const { BETTER_AUTH_SECRET, BETTER_AUTH_URL, NEON_DATABASE_URL, POOL_SIZE, PORT } = process.env

const sql = postgres(NEON_DATABASE_URL, {
  max: Number(POOL_SIZE),
  // Ids are bigint; they stay below 2^53.
  types: { bigint: { to: 20, from: [20], parse: Number, serialize: String } }
})
const columns = sql`id, user_id, title, description, completed, created_at, updated_at`

const verify = createVerifier({
  key: BETTER_AUTH_SECRET,
  algorithms: ['HS256'],
  allowedIss: BETTER_AUTH_URL,
  allowedAud: BETTER_AUTH_URL,
  requiredClaims: ['exp', 'sub', 'iss', 'aud'],
  cache: true
})

const title = { type: 'string', minLength: 1, maxLength: 200, pattern: '\\S' }
const description = { type: ['string', 'null'], maxLength: 1000 }
const completed = { type: 'boolean' }
const time = { type: 'string', format: 'date-time' }
const id = { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER }
const user_id = { type: 'string' }

const task = {
  type: 'object',
  properties: { id, user_id, title, description, completed, created_at: time, updated_at: time }
}
const fields = { type: 'object', properties: { title, description, completed }, additionalProperties: false }
const ofList = { params: { type: 'object', properties: { user_id } } }
const ofTask = { params: { type: 'object', properties: { user_id, id } } }

const app = Fastify({ logger: false })

class Refused extends Error {
  constructor(statusCode, message) {
    super(message)
    this.statusCode = statusCode
  }
}

app.setErrorHandler((error, request, reply) => {
  const status = error.statusCode ?? 500
  if (status >= 500) console.error(error)
  reply.code(status).send({ detail: status >= 500 ? 'Internal server error' : error.message })
})

app.addHook('onRequest', async (request) => {
  const { authorization } = request.headers
  if (!authorization?.startsWith('Bearer ')) throw new Refused(401, 'Not authenticated')
  let claims
  try {
    claims = verify(authorization.slice(7))
  } catch {
    throw new Refused(401, 'Invalid token')
  }
  if (claims.sub !== request.params.user_id) throw new Refused(403, 'Not your tasks')
})

function found([row]) {
  if (!row) throw new Refused(404, 'Task not found')
  return row
}

app.get('/api/:user_id/tasks', {
  schema: { ...ofList, response: { 200: { type: 'array', items: task } } }
}, async ({ params }) =>
  sql`select ${columns} from task where user_id = ${params.user_id} order by created_at desc, id desc`)

app.post('/api/:user_id/tasks', {
  schema: { ...ofList, body: { ...fields, required: ['title'] }, response: { 201: task } }
}, async ({ params, body }, reply) => {
  const { title, description = null, completed = false } = body
  reply.code(201)
  return found(await sql`
    insert into task ${sql({ user_id: params.user_id, title, description, completed })} returning ${columns}`)
})

app.get('/api/:user_id/tasks/:id', {
  schema: { ...ofTask, response: { 200: task } }
}, async ({ params }) =>
  found(await sql`select ${columns} from task where id = ${params.id} and user_id = ${params.user_id}`))

app.put('/api/:user_id/tasks/:id', {
  schema: { ...ofTask, body: fields, response: { 200: task } }
}, async ({ params, body }) =>
  found(await sql`
    update task set ${sql({ ...body, updated_at: new Date() })}
    where id = ${params.id} and user_id = ${params.user_id} returning ${columns}`))

app.delete('/api/:user_id/tasks/:id', { schema: ofTask }, async ({ params }, reply) => {
  found(await sql`delete from task where id = ${params.id} and user_id = ${params.user_id} returning id`)
  reply.code(204)
})

app.patch('/api/:user_id/tasks/:id/complete', {
  schema: { ...ofTask, response: { 200: task } }
}, async ({ params }) =>
  found(await sql`
    update task set completed = not completed, updated_at = now()
    where id = ${params.id} and user_id = ${params.user_id} returning ${columns}`))

await app.listen({ host: '127.0.0.1', port: Number(PORT) })
