//! The host's own conversation with the agent: it makes a captured system right and runs commands whose output it
//! collects.
//!
//! Threads wait for it, outside the runtime and without HTTP: after a capture every instruction is new to an emulated
//! processor, so there are to be few of them. The host keeps a connection and says one thing after another; a connection
//! whose other end is gone, as they are when a system goes on elsewhere, is found out by the kernel and given up.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buffa::Message;
use proto::direct::word::Word as Said;
use proto::direct::{Answer, Word};
use rustix::net::sockopt;

use super::restore::{RestoreError, restore, set_clock};
use super::{Agent, run};
use crate::log;
use crate::process::block_signals;

/// The longest message: an environment has its limits too.
const LIMIT: u32 = 4 * 1024 * 1024;

/// A host that takes nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so long without a word the kernel asks whether the host is still there, and asks again after as long.
const IDLE: Duration = Duration::from_secs(60);
/// How often it asks.
const QUESTIONS: u32 = 3;

/// Threads that wait, so that a captured system has one that it need not make first.
const SPARE: usize = 2;

/// What the threads share.
struct Port {
    listener: TcpListener,
    agent: Arc<Agent>,
    /// Threads that wait for a connection.
    waiting: AtomicUsize,
}

/// Answers the host from threads of their own, for ever.
pub fn listen(address: SocketAddr, agent: Arc<Agent>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let port = Arc::new(Port { listener, agent, waiting: AtomicUsize::new(0) });
    (0..SPARE).try_for_each(|_| wait(port.clone()))?;
    Ok(address)
}

/// One more thread that waits.
fn wait(port: Arc<Port>) -> io::Result<()> {
    port.waiting.fetch_add(1, Ordering::SeqCst);
    let waiting = port.clone();
    let thread = std::thread::Builder::new().name("direct".to_owned()).spawn(move || {
        block_signals();
        serve(&waiting);
    });
    if thread.is_err() {
        port.waiting.fetch_sub(1, Ordering::SeqCst);
    }
    thread.map(drop)
}

/// Takes one connection after another, as long as no more threads wait than are needed.
fn serve(port: &Arc<Port>) {
    loop {
        let accepted = port.listener.accept();
        let others = port.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
        if others == 0
            && let Err(error) = wait(port.clone())
        {
            log::line(format_args!("nobody waits for the host meanwhile: {error}"));
        }
        // A host that went away in the middle comes again.
        let _ = accepted.and_then(|(stream, peer)| converse(stream, peer, &port.agent));
        if port.waiting.fetch_add(1, Ordering::SeqCst) >= SPARE {
            port.waiting.fetch_sub(1, Ordering::SeqCst);
            return;
        }
    }
}

fn converse(mut stream: TcpStream, peer: SocketAddr, agent: &Agent) -> io::Result<()> {
    if peer.ip().to_canonical() != agent.control_peer {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, IDLE)?;
    sockopt::set_tcp_keepcnt(&stream, QUESTIONS)?;
    loop {
        let done = match receive(&mut stream)? {
            Some(Said::Run(command)) => {
                run::run(&stream, agent, *command)?;
                continue;
            }
            // It came when the command had just ended.
            Some(Said::Kill(_)) => continue,
            Some(Said::ClockUnixNs(time)) => set_clock(agent.role, time),
            Some(Said::Restoration(restoration)) => restore(agent, *restoration),
            None => Err(RestoreError::Garbled("it says nothing".to_owned())),
        };
        let error = done.err().map(|error| error.to_string()).unwrap_or_default();
        if !error.is_empty() {
            log::line(format_args!("not restored: {error}"));
        }
        let mut answer = Vec::new();
        put(&mut answer, &Answer { error, ..Default::default() })?;
        stream.write_all(&answer)?;
    }
}

/// The next thing that the host says.
pub fn receive(stream: &mut impl Read) -> io::Result<Option<Said>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(Word::decode_from_slice(&message).map_err(io::Error::other)?.word)
}

/// Adds an answer to what is to be sent.
pub fn put(sent: &mut Vec<u8>, answer: &Answer) -> io::Result<()> {
    let body = answer.encode_to_vec();
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    sent.extend_from_slice(&length.to_be_bytes());
    sent.extend_from_slice(&body);
    Ok(())
}
