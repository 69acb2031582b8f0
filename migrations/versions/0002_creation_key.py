"""The key under which a task was created, so that a retry finds it instead of adding another."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INDEX = "task_created_once"


def upgrade() -> None:
    op.add_column("task", sa.Column("creation_key", sa.Text))
    op.add_column("task", sa.Column("creation_hash", sa.LargeBinary))
    # The key first: an index that begins with the owner would compete for the lists with the one in their order.
    op.create_index(INDEX, "task", ["creation_key", "user_id"], unique=True)


def downgrade() -> None:
    op.drop_index(INDEX, "task")
    op.drop_column("task", "creation_hash")
    op.drop_column("task", "creation_key")
