//! Input of processes, from the messages of the wire contract.

use std::future::Future;

use connectrpc::ConnectError;
use proto::process as wire;
use proto::process::process_input::Input as WireInput;
use tokio::time::{Instant, timeout_at};

use super::error::input_error;
use crate::process::{Channel, Process, Size};

/// Gives a process what it is to read.
pub async fn send(process: &Process, input: Option<wire::ProcessInput>) -> Result<(), ConnectError> {
    let (channel, data) = match input.and_then(|input| input.input) {
        Some(WireInput::Stdin(data)) => (Channel::Stdin, data),
        Some(WireInput::Pty(data)) => (Channel::Terminal, data),
        None => return Err(ConnectError::unimplemented("input is stdin or pty")),
    };
    process.input.write(channel, &data).await.map_err(input_error)
}

/// Data came and nobody knows for whom.
pub fn no_start() -> ConnectError {
    ConnectError::invalid_argument("the first event must be start")
}

/// A terminal's size; one that is not given is the usual one.
pub fn size(pty: wire::PTY) -> Result<Size, ConnectError> {
    let Some(size) = pty.size.into_option() else { return Ok(Size::default()) };
    let narrow = |number: u32| {
        u16::try_from(number).map_err(|_| ConnectError::invalid_argument("a terminal has at most 65535 rows and cols"))
    };
    Ok(Size { cols: narrow(size.cols)?, rows: narrow(size.rows)? })
}

/// A process that does not read is waited for as long as the client wants.
pub async fn in_time(
    deadline: Option<std::time::Instant>,
    work: impl Future<Output = Result<(), ConnectError>>,
) -> Result<(), ConnectError> {
    match deadline.map(Instant::from_std) {
        None => work.await,
        Some(deadline) => match timeout_at(deadline, work).await {
            Ok(done) => done,
            Err(_) => Err(ConnectError::deadline_exceeded("the process did not read in time")),
        },
    }
}
