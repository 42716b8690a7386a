//! From what went wrong to the code that tells callers what to do about it. The last step; nothing inwards knows codes.

use std::error::Error;

use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use model::{InvalidId, InvalidPolicy, InvalidShape, InvalidTemplateName};
use proto::hostagent::v1::TemplateBuilding;

use crate::disk::PruneError;
use crate::guest::{ExecError, FileError, GuestError, PortError};
use crate::net;
use crate::sandbox::metrics::InvalidRange;
use crate::sandbox::{
    CaptureError, CreateError, DestroyError, FootprintError, NetworkError, TransitionError, UseError,
};
use crate::snapshot::SnapshotError;
use crate::template::{RecipeError, TemplateError};

/// An error's own words and those of its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}

/// Errors of the host agent's operations, as Connect errors.
pub(super) trait IntoConnect: Error + Sized {
    /// The code for callers.
    fn code(&self) -> ErrorCode;

    /// Code and message.
    fn into_connect(self) -> ConnectError {
        ConnectError::new(self.code(), chain(&self))
    }
}

macro_rules! invalid_argument {
    ($($error:ty),*) => {
        $(impl IntoConnect for $error {
            fn code(&self) -> ErrorCode {
                ErrorCode::InvalidArgument
            }
        })*
    };
}

invalid_argument!(InvalidId, InvalidPolicy, InvalidRange, InvalidShape, InvalidTemplateName);

impl IntoConnect for std::sync::Arc<CreateError> {
    fn code(&self) -> ErrorCode {
        match &**self {
            CreateError::AlreadyExists(_) => ErrorCode::AlreadyExists,
            CreateError::Template(error) => error.code(),
            CreateError::NoDiskSpace { .. } => ErrorCode::ResourceExhausted,
            CreateError::Closing => ErrorCode::Unavailable,
            CreateError::Network(net::CreateError::Claim(net::ClaimError::AllTaken)) => ErrorCode::Unavailable,
            CreateError::Unanswered { .. } => ErrorCode::DeadlineExceeded,
            CreateError::Deleted => ErrorCode::Aborted,
            error => error.code(),
        }
    }

    fn into_connect(self) -> ConnectError {
        let error = ConnectError::new(self.code(), chain(&self));
        match &*self {
            CreateError::Template(TemplateError::Building { name }) => {
                let detail = TemplateBuilding { template: name.to_string(), ..Default::default() };
                error.with_detail(ErrorDetail::from_message("hostagent.v1.TemplateBuilding", &detail))
            }
            _ => error,
        }
    }
}

impl IntoConnect for NetworkError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Closing => ErrorCode::Unavailable,
            Self::NotReady(_) => ErrorCode::FailedPrecondition,
            Self::Rules(_) | Self::Egress(_) | Self::End(_) | Self::Record(_) => ErrorCode::Internal,
        }
    }
}

impl IntoConnect for CreateError {
    fn code(&self) -> ErrorCode {
        match self {
            CreateError::DiskTooSmall { .. } => ErrorCode::InvalidArgument,
            CreateError::NoDiskSpace { .. } => ErrorCode::ResourceExhausted,
            CreateError::Refused(_) | CreateError::NoMemory { .. } => ErrorCode::Unavailable,
            CreateError::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorCode::ResourceExhausted
            }
            CreateError::Snapshot(error) => error.code(),
            CreateError::Template(error) => error.code(),
            CreateError::Freeze(GuestError::Silent) | CreateError::Introduce(GuestError::Silent) => {
                ErrorCode::DeadlineExceeded
            }
            _ => ErrorCode::Internal,
        }
    }
}

impl IntoConnect for SnapshotError {
    fn code(&self) -> ErrorCode {
        match self {
            SnapshotError::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorCode::ResourceExhausted
            }
            SnapshotError::File { .. } => ErrorCode::Internal,
            SnapshotError::NotFound(_) => ErrorCode::NotFound,
            _ => ErrorCode::FailedPrecondition,
        }
    }
}

impl IntoConnect for TemplateError {
    fn code(&self) -> ErrorCode {
        match self {
            TemplateError::NotBuilt { .. } | TemplateError::Recipe(RecipeError::Unknown { .. }) => ErrorCode::NotFound,
            TemplateError::Building { .. } => ErrorCode::Unavailable,
            TemplateError::Damaged { .. } => ErrorCode::FailedPrecondition,
            _ => ErrorCode::Internal,
        }
    }
}

impl IntoConnect for PruneError {
    fn code(&self) -> ErrorCode {
        match self {
            PruneError::Look(_) | PruneError::Bake { .. } | PruneError::Templates(_) => ErrorCode::Internal,
        }
    }
}

impl IntoConnect for FootprintError {
    fn code(&self) -> ErrorCode {
        match self {
            FootprintError::Use(error) => error.code(),
            // The monitor ends, or has just ended.
            FootprintError::Look(_) => ErrorCode::FailedPrecondition,
        }
    }
}

impl IntoConnect for DestroyError {
    fn code(&self) -> ErrorCode {
        match self {
            DestroyError::NotFound(_) => ErrorCode::NotFound,
            DestroyError::Closing => ErrorCode::Unavailable,
            DestroyError::Left { .. } | DestroyError::Abandoned(_) => ErrorCode::Internal,
        }
    }
}

impl IntoConnect for TransitionError {
    fn code(&self) -> ErrorCode {
        match self {
            TransitionError::NotFound(_) => ErrorCode::NotFound,
            TransitionError::Closing => ErrorCode::Unavailable,
            TransitionError::Outdated { .. } => ErrorCode::Aborted,
            TransitionError::Note(_) => ErrorCode::Internal,
            TransitionError::Illegal(_) => ErrorCode::FailedPrecondition,
            TransitionError::Failed { source, .. } => source.code(),
        }
    }
}

impl IntoConnect for CaptureError {
    fn code(&self) -> ErrorCode {
        match self {
            CaptureError::NotFound(_) => ErrorCode::NotFound,
            CaptureError::Closing => ErrorCode::Unavailable,
            CaptureError::AlreadyExists(_) => ErrorCode::AlreadyExists,
            CaptureError::Illegal(_) => ErrorCode::FailedPrecondition,
            CaptureError::Failed(source) => source.code(),
        }
    }
}

impl IntoConnect for UseError {
    fn code(&self) -> ErrorCode {
        match self {
            UseError::NotFound(_) => ErrorCode::NotFound,
            UseError::NotRunning { .. } => ErrorCode::FailedPrecondition,
        }
    }
}

impl IntoConnect for GuestError {
    fn code(&self) -> ErrorCode {
        match self {
            GuestError::Silent => ErrorCode::DeadlineExceeded,
            GuestError::Unreachable(_) | GuestError::Broken(_) => ErrorCode::Unavailable,
            GuestError::Garbled | GuestError::NotRestored(_) | GuestError::Refused { .. } => ErrorCode::Internal,
        }
    }
}

impl IntoConnect for PortError {
    fn code(&self) -> ErrorCode {
        match self {
            PortError::Reserved(_) => ErrorCode::PermissionDenied,
            // Not `unavailable`, which is the host agent's own word for itself.
            PortError::Closed(_) => ErrorCode::Aborted,
            PortError::Silent { .. } => ErrorCode::DeadlineExceeded,
        }
    }
}

impl IntoConnect for ExecError {
    fn code(&self) -> ErrorCode {
        match self {
            ExecError::Refused(_) => ErrorCode::InvalidArgument,
            ExecError::Failed(_) => ErrorCode::Internal,
            ExecError::NotBegun(_) | ExecError::Early => ErrorCode::Unavailable,
            ExecError::Lost(_) => ErrorCode::Unknown,
        }
    }
}

impl IntoConnect for FileError {
    fn code(&self) -> ErrorCode {
        match self {
            FileError::NotFound(_) => ErrorCode::NotFound,
            FileError::BadPath(_) => ErrorCode::InvalidArgument,
            FileError::Forbidden(_) => ErrorCode::PermissionDenied,
            FileError::NoSpace(_) => ErrorCode::ResourceExhausted,
            FileError::TooLarge(_) => ErrorCode::OutOfRange,
            FileError::Guest(error) => error.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sandbox::Refusal;

    #[test]
    fn each_kind_of_failure_has_the_code_that_tells_callers_what_to_do() {
        let check = |error: CreateError, code: ErrorCode| assert_eq!(Arc::new(error).code(), code);
        check(CreateError::NoMemory { wanted_mb: 2, available_mb: 1 }, ErrorCode::Unavailable);
        check(Refusal::OwnerSandboxes { limit: 1 }.into(), ErrorCode::Unavailable);
        check(CreateError::Network(net::CreateError::Claim(net::ClaimError::AllTaken)), ErrorCode::Unavailable);
        let directory = "/var/lib".into();
        check(
            CreateError::NoDiskSpace { directory, free_mb: 1, wanted_mb: 0, reserve_mb: 2 },
            ErrorCode::ResourceExhausted,
        );
        let name: model::TemplateName = "minimal".parse().unwrap();
        check(TemplateError::NotBuilt { name: name.clone() }.into(), ErrorCode::NotFound);
        let reason = "its image is empty".to_owned();
        check(TemplateError::Damaged { name, reason }.into(), ErrorCode::FailedPrecondition);
        check(TemplateError::Building { name: "minimal".parse().unwrap() }.into(), ErrorCode::Unavailable);
        check(CreateError::Deleted, ErrorCode::Aborted);
        check(CreateError::Ended { last_words: String::new() }, ErrorCode::Internal);
    }

    #[test]
    fn a_template_that_is_being_built_is_told_from_all_else_that_is_unavailable() {
        let building = TemplateError::Building { name: "minimal".parse().unwrap() };
        let error = Arc::new(CreateError::Template(building)).into_connect();
        assert_eq!(error.details[0].type_url, "hostagent.v1.TemplateBuilding");
        let full = CreateError::NoMemory { wanted_mb: 2, available_mb: 1 };
        assert!(Arc::new(full).into_connect().details.is_empty());
    }

    #[test]
    fn a_message_has_the_causes_too() {
        let claim = net::CreateError::Claim(net::ClaimError::AllTaken);
        let error = Arc::new(CreateError::Network(claim)).into_connect();
        let message = error.message.unwrap();
        assert!(message.starts_with("set up the sandbox's network: all "), "{message}");
    }
}
