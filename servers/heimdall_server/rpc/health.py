"""gRPC health of each service, with `List` (which the package leaves out)."""

from __future__ import annotations

from typing import Any, Final

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(aio.HealthServicer):  # type: ignore[misc] # the package is untyped
    """The health servicer. The empty name stands for the whole process."""

    def __init__(self, services: tuple[str, ...]) -> None:
        super().__init__()
        self._server_status = dict.fromkeys(("", *services), NOT_SERVING)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - gRPC's signature
        """All services with their health."""
        response = health_pb2.HealthCheckResponse
        return health_pb2.HealthListResponse(
            statuses={name: response(status=status) for name, status in self._server_status.items()}
        )

    async def set_serving(self, service: str, *, serving: bool) -> None:
        """Tell a service's health. Has no effect any more once the server shuts down."""
        await self.set(service, SERVING if serving else NOT_SERVING)

    async def set_all_serving(self) -> None:
        """All services are healthy."""
        for name in list(self._server_status):
            await self.set(name, SERVING)
