"""How does a developer get a token?"""

import re
import time
from typing import Annotated

import jwt
import typer

from backend.settings import Settings, load_settings

SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def token(
    user: Annotated[str, typer.Argument(help="The user's id, as it stands in the path of the API.")],
    expires: Annotated[str, typer.Option(help="How long it is valid: a number and s, m, h or d.")] = "1h",
) -> None:
    """Print an HS256 token for development, signed with BETTER_AUTH_SECRET as a frontend would sign it."""
    lifetime = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", expires)
    if not lifetime:
        raise typer.BadParameter("write a number and s, m, h or d, such as 15m or 7d", param_hint="--expires")
    print(signed(load_settings(environment="development"), user, int(lifetime[1]) * SECONDS[lifetime[2]]))


def signed(settings: Settings, user: str, lifetime: int) -> str:
    """Return a token as a frontend would sign it, valid for so many seconds."""
    now = int(time.time())
    claims = {
        "sub": user,
        "iss": settings.better_auth_url,
        "aud": settings.better_auth_url,
        "iat": now,
        "exp": now + lifetime,
    }
    return jwt.encode(claims, settings.better_auth_secret.get_secret_value().encode(), algorithm="HS256")
