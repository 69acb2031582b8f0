"""Which mails does the real Better Auth send to a person, and what is the token in each?"""

from collections.abc import Callable
from uuid import uuid4

from real_frontend import Person


def sent_again(person: Person) -> str:
    person.ask("send-verification-email", email=person.email)
    return person.mailed(person.email)


def to_an_address_that_replaces_an_unverified_one(person: Person) -> str:
    new = f"{uuid4().hex}@example.com"
    person.ask("change-email", newEmail=new)
    return person.mailed(new)


def to_the_old_address(person: Person) -> str:
    person.follow(person.token)
    person.ask("change-email", newEmail=f"new-{person.email}")
    return person.mailed(person.email)


def to_the_new_address(person: Person) -> str:
    person.follow(to_the_old_address(person))
    return person.mailed(f"new-{person.email}")


def asked_for(path: str, **fields: str) -> Callable[[Person], str]:
    def token(person: Person) -> str:
        person.ask(path, **fields | {"email": person.email})
        return person.mailed(person.email)

    return token


# JWTs, signed with the secret that the API shares.
LINKS: dict[str, Callable[[Person], str]] = {
    "verification at sign-up": lambda person: person.token,
    "verification, sent again": sent_again,
    "verification of an address that replaces an unverified one": to_an_address_that_replaces_an_unverified_one,
    "change of address, to the old one": to_the_old_address,
    "change of address, to the new one": to_the_new_address,
}
# Random characters or digits.
CODES: dict[str, Callable[[Person], str]] = {
    "reset of the password": asked_for("request-password-reset"),
    "deletion of the account": asked_for("delete-user"),
    "magic link": asked_for("sign-in/magic-link"),
    "one-time code": asked_for("email-otp/send-verification-otp", type="sign-in"),
}
