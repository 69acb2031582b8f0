"""Careful asynchronous SQLModel: entities, one statement and one commit for each write, nothing asked for twice."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException, Path
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import StringConstraints
from sqlalchemy import BigInteger, ColumnElement, DateTime, func, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, and_, col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

SECRET, ISSUER = os.environ["BETTER_AUTH_SECRET"], os.environ["BETTER_AUTH_URL"]

url = make_url(os.environ["NEON_DATABASE_URL"]).set(drivername="postgresql+asyncpg")
engine = create_async_engine(
    url.difference_update_query(["sslmode"]),
    connect_args={"ssl": url.query.get("sslmode", "prefer")},  # what libpq calls sslmode
    pool_size=int(os.environ["POOL_SIZE"]),
    max_overflow=0,
)

Timestamp = DateTime(timezone=True)

Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


class TaskBase(SQLModel):
    title: Title
    description: str | None = Field(default=None, max_length=1000)
    completed: bool = False


class Task(TaskBase, table=True):
    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    user_id: str = Field(index=True)
    created_at: datetime | None = Field(None, sa_type=Timestamp, sa_column_kwargs={"server_default": func.now()})
    updated_at: datetime | None = Field(None, sa_type=Timestamp, sa_column_kwargs={"server_default": func.now()})


class TaskCreate(TaskBase):
    pass


class TaskUpdate(TaskBase):
    title: Title = ""


class TaskRead(TaskBase):
    id: int
    user_id: str
    created_at: datetime
    updated_at: datetime


async def open_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


async def authorize(user_id: str, bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    try:
        claims = jwt.decode(
            bearer.credentials, SECRET, ["HS256"], {"require": ["exp", "sub"]}, audience=ISSUER, issuer=ISSUER
        )
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "Invalid token", {"WWW-Authenticate": "Bearer"}) from error
    if claims["sub"] != user_id:
        raise HTTPException(403, "Not your tasks")
    return user_id


Database = Annotated[AsyncSession, Depends(open_session)]
Owner = Annotated[str, Depends(authorize)]
TaskId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


def this_task(owner: str, task_id: int) -> ColumnElement[bool]:
    return and_(col(Task.id) == task_id, col(Task.user_id) == owner)


def found(task: Task | None) -> Task:
    if task is None:
        raise HTTPException(404, "Task not found")
    return task


@app.get("/api/{user_id}/tasks", response_model=list[TaskRead])
async def list_tasks(owner: Owner, session: Database):
    mine = select(Task).where(Task.user_id == owner).order_by(col(Task.created_at).desc(), col(Task.id).desc())
    return (await session.exec(mine)).all()


@app.post("/api/{user_id}/tasks", response_model=TaskRead, status_code=201)
async def create_task(body: TaskCreate, owner: Owner, session: Database):
    task = Task(**body.model_dump(), user_id=owner)
    session.add(task)
    await session.commit()
    return task


@app.get("/api/{user_id}/tasks/{task_id}", response_model=TaskRead)
async def read_task(task_id: TaskId, owner: Owner, session: Database):
    return found((await session.exec(select(Task).where(this_task(owner, task_id)))).one_or_none())


async def change(session: AsyncSession, owner: str, task_id: int, values: dict) -> Task:
    changed = update(Task).where(this_task(owner, task_id)).values(**values, updated_at=func.now()).returning(Task)
    task = found((await session.exec(changed)).scalar_one_or_none())
    await session.commit()
    return task


@app.put("/api/{user_id}/tasks/{task_id}", response_model=TaskRead)
async def update_task(task_id: TaskId, body: TaskUpdate, owner: Owner, session: Database):
    return await change(session, owner, task_id, body.model_dump(exclude_unset=True))


@app.delete("/api/{user_id}/tasks/{task_id}", status_code=204)
async def delete_task(task_id: TaskId, owner: Owner, session: Database):
    gone = delete(Task).where(this_task(owner, task_id)).returning(col(Task.id))
    found((await session.exec(gone)).scalar_one_or_none())
    await session.commit()


@app.patch("/api/{user_id}/tasks/{task_id}/complete", response_model=TaskRead)
async def toggle_task(task_id: TaskId, owner: Owner, session: Database):
    return await change(session, owner, task_id, {"completed": ~col(Task.completed)})
