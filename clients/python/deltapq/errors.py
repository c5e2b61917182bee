"""What a refused call raises."""
import grpc
from google.rpc import error_details_pb2, status_pb2


class DeltaPQError(Exception):
    """A call was refused.

    code      name of the gRPC status, "INVALID_ARGUMENT"; "LOCAL" when it did not come from the daemon
    reason    as in the .proto files, "NOT_FINITE"; "" when none was given
    message   one sentence
    metadata  dict of str: layer, kind, head, token where the fault can be located
    retry_ms  when the call may be repeated; 0: nothing was said
    """

    def __init__(self, code, reason, message, metadata=None, retry_ms=0):
        super().__init__(f"{code} {reason}: {message}" if reason else f"{code}: {message}")
        self.code, self.reason, self.message = code, reason, message
        self.metadata = metadata or {}
        self.retry_ms = retry_ms

    @classmethod
    def from_rpc(cls, error: grpc.RpcError) -> "DeltaPQError":
        """Of a grpc.RpcError; its details are read where there are any."""
        reason, metadata, retry_ms = "", {}, 0
        for key, value in error.trailing_metadata() or ():
            if key != "grpc-status-details-bin":
                continue
            for detail in status_pb2.Status.FromString(value).details:
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    reason, metadata = info.reason, dict(info.metadata)
                elif detail.Unpack(retry):
                    retry_ms = retry.retry_delay.seconds * 1000 + retry.retry_delay.nanos // 1000000
        return cls(error.code().name, reason, error.details(), metadata, retry_ms)
