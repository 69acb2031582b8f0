"""The key under which a task was created, so that a retry finds it instead of adding another."""

import sqlalchemy as sa
from alembic import op

from backend.schema.change import create_index, drop_index, refuse_to_lose

revision = "0002"
down_revision = "0001"

INDEX = "task_created_once"


def upgrade() -> None:
    op.add_column("task", sa.Column("creation_key", sa.Text), if_not_exists=True)
    op.add_column("task", sa.Column("creation_hash", sa.LargeBinary), if_not_exists=True)
    # The key first: an index that begins with the owner would compete for the lists with the one in their order.
    create_index(INDEX, "task", ["creation_key", "user_id"], unique=True)


def downgrade() -> None:
    keys = "the keys by which a creation that is sent again finds its task"
    refuse_to_lose(keys, "SELECT count(*) FROM task WHERE creation_key IS NOT NULL")
    drop_index(INDEX, "task")
    op.drop_column("task", "creation_hash")
    op.drop_column("task", "creation_key")
