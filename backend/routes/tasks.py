"""The six endpoints."""

from fastapi import APIRouter

from backend.dependencies import IdempotencyKey, OwnedTasks, TaskId
from backend.models import TaskCreate, TaskRead, TaskUpdate
from backend.tasks import Pages, Row
from backend.web.openapi import problems
from backend.web.routing import OwnedRoute

# A body may come without its media type: that makes a foreign page's request simple, but such a page has no token.
router = APIRouter(prefix="/api/{user_id}/tasks", tags=["tasks"], route_class=OwnedRoute, strict_content_type=False)


@router.get("", operation_id="listTasks", response_model=list[TaskRead], responses=problems(401, 403, 503))
async def list_tasks(tasks: OwnedTasks) -> Pages:
    """All of the user's tasks, newest first."""
    return tasks.all()


@router.post(
    "",
    operation_id="createTask",
    status_code=201,
    response_model=TaskRead,
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
async def create_task(tasks: OwnedTasks, task: TaskCreate, key: IdempotencyKey) -> Row:
    """Create a task; with an Idempotency-Key, however often it is sent, only once."""
    return await tasks.add(task, key)


@router.get("/{id}", operation_id="getTask", response_model=TaskRead, responses=problems(401, 403, 404, 422, 503))
async def get_task(tasks: OwnedTasks, task_id: TaskId) -> Row:
    """One task."""
    return await tasks.get(task_id)


@router.put(
    "/{id}",
    operation_id="updateTask",
    response_model=TaskRead,
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
)
async def update_task(tasks: OwnedTasks, task_id: TaskId, task: TaskUpdate) -> Row:
    """Change the fields that are sent; the rest stays."""
    return await tasks.change(task_id, task)


@router.delete("/{id}", operation_id="deleteTask", status_code=204, responses=problems(401, 403, 404, 422, 503))
async def delete_task(tasks: OwnedTasks, task_id: TaskId) -> None:
    """Delete a task for good."""
    await tasks.delete(task_id)


@router.patch(
    "/{id}/complete",
    operation_id="toggleTaskCompletion",
    response_model=TaskRead,
    responses=problems(401, 403, 404, 422, 503),
)
async def toggle_task(tasks: OwnedTasks, task_id: TaskId) -> Row:
    """Mark an open task as done, or a done one as open. A body is ignored."""
    return await tasks.toggle(task_id)
