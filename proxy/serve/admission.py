"""Checking what the rules could only ask for: passwords and an outside service (``message.Ask``).

The rules have said what has to be asked and in which order; here it is asked, and the answer is a request
that may go on or a refusal of theirs. Nothing of the request's body is read before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from proxy.message import Credential, Forward
from proxy.rules.access import Denial, basic_credentials, without_password
from proxy.rules.decide import refuse
from proxy.serve.forward_auth import ForwardAuth

if TYPE_CHECKING:
    from proxy.message import Ask, Decision, RequestHead
    from proxy.serve.passwords import Passwords
    from proxy.serve.runtime import Runtime

CHECKS_FULL = Denial(
    503, "password_checks_full", "too many passwords are being checked at the moment", retry_after=2
)


class Admission:
    """What one proxy asks outside.

    :raises ConfigError: the file of passwords cannot be used.
    """

    def __init__(self, runtime: Runtime) -> None:
        access = runtime.config.access
        self._table = runtime.tables.access
        self._passwords: Passwords | None = None
        if access.basic_auth_file:
            from proxy.serve.passwords import Passwords  # bcrypt and threads: not for those without

            self._passwords = Passwords(access, runtime.clock, runtime.error)
        self._service = ForwardAuth(runtime) if access.forward_auth else None

    async def admit(self, forward: Forward, ask: Ask, head: RequestHead) -> Decision:
        """Ask all that is to be asked; of several refusals the last one is the client's."""
        refused: Denial | None = None
        for credential in ask.credentials:
            outcome = await self._check(credential, forward, head)
            if isinstance(outcome, Denial):
                refused = outcome
            else:
                forward, refused = outcome, None
            if (refused is None) is ask.one_suffices:
                break
        return forward if refused is None else refuse(refused, head, forward.client, forward.route)

    async def close(self) -> None:
        """Wait for what still runs."""
        if self._passwords is not None:
            await self._passwords.close()

    async def _check(self, credential: Credential, forward: Forward, head: RequestHead) -> Forward | Denial:
        match credential:
            case Credential.BASIC:
                return await self._password(forward, head)
            case Credential.FORWARD:
                assert self._service is not None
                return await self._service.ask(forward, head)
            case _:
                assert_never(credential)

    async def _password(self, forward: Forward, head: RequestHead) -> Forward | Denial:
        given = basic_credentials(head.fields)
        assert given is not None
        assert self._passwords is not None
        right = await self._passwords.check(*given)
        if right is None:
            return CHECKS_FULL
        return without_password(forward) if right else self._table.wrong_password()
