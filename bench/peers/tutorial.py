"""The way of the FastAPI and SQLModel tutorials: plain functions in threads, a session for each request."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import StringConstraints
from sqlalchemy import BigInteger, DateTime, make_url
from sqlmodel import Field, Session, SQLModel, col, create_engine, select

SECRET, ISSUER = os.environ["BETTER_AUTH_SECRET"], os.environ["BETTER_AUTH_URL"]

engine = create_engine(
    make_url(os.environ["NEON_DATABASE_URL"]).set(drivername="postgresql+psycopg"),
    pool_size=int(os.environ["POOL_SIZE"]),
    max_overflow=0,
)


def now() -> datetime:
    return datetime.now(UTC)


Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


class TaskBase(SQLModel):
    title: Title
    description: str | None = Field(default=None, max_length=1000)
    completed: bool = False


class Task(TaskBase, table=True):
    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    user_id: str = Field(index=True)
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))
    updated_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))


class TaskCreate(TaskBase):
    pass


class TaskUpdate(SQLModel):
    title: Title = ""
    description: str | None = Field(default=None, max_length=1000)
    completed: bool = False


class TaskPublic(TaskBase):
    id: int
    user_id: str
    created_at: datetime
    updated_at: datetime


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


async def get_current_user(
    user_id: str, credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
) -> str:
    try:
        claims = jwt.decode(
            credentials.credentials, SECRET, ["HS256"], {"require": ["exp", "sub"]}, audience=ISSUER, issuer=ISSUER
        )
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "Invalid token", {"WWW-Authenticate": "Bearer"}) from error
    if claims["sub"] != user_id:
        raise HTTPException(403, "Not your tasks")
    return user_id


SessionDep = Annotated[Session, Depends(get_session)]
CurrentUser = Annotated[str, Depends(get_current_user)]

app = FastAPI()


def get_task_or_404(session: Session, user_id: str, task_id: int) -> Task:
    task = session.get(Task, task_id)
    if not task or task.user_id != user_id:
        raise HTTPException(404, "Task not found")
    return task


def save(session: Session, task: Task) -> Task:
    session.add(task)
    session.commit()
    session.refresh(task)
    return task


@app.get("/api/{user_id}/tasks", response_model=list[TaskPublic])
def list_tasks(user: CurrentUser, session: SessionDep):
    newest_first = select(Task).where(Task.user_id == user).order_by(col(Task.created_at).desc(), col(Task.id).desc())
    return session.exec(newest_first).all()


@app.post("/api/{user_id}/tasks", response_model=TaskPublic, status_code=201)
def create_task(task: TaskCreate, user: CurrentUser, session: SessionDep):
    return save(session, Task.model_validate(task, update={"user_id": user}))


@app.get("/api/{user_id}/tasks/{task_id}", response_model=TaskPublic)
def read_task(task_id: int, user: CurrentUser, session: SessionDep):
    return get_task_or_404(session, user, task_id)


@app.put("/api/{user_id}/tasks/{task_id}", response_model=TaskPublic)
def update_task(task_id: int, changes: TaskUpdate, user: CurrentUser, session: SessionDep):
    task = get_task_or_404(session, user, task_id)
    task.sqlmodel_update(changes.model_dump(exclude_unset=True), update={"updated_at": now()})
    return save(session, task)


@app.delete("/api/{user_id}/tasks/{task_id}", status_code=204)
def delete_task(task_id: int, user: CurrentUser, session: SessionDep):
    session.delete(get_task_or_404(session, user, task_id))
    session.commit()


@app.patch("/api/{user_id}/tasks/{task_id}/complete", response_model=TaskPublic)
def toggle_task(task_id: int, user: CurrentUser, session: SessionDep):
    task = get_task_or_404(session, user, task_id)
    task.sqlmodel_update({"completed": not task.completed, "updated_at": now()})
    return save(session, task)
