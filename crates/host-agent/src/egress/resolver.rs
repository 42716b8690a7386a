//! The resolver: asks the host's name servers, or the sandbox's own, for allowed names, and for nothing else; admits what they answer.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Gate;
use super::dns::{self, Found, Question, Reply};

/// Questions that are looked into at once; further ones are dropped, and asked again by whoever asked.
const AT_ONCE: usize = 64;

/// How long a name server may take, each time that it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// How long a guest may take with a question.
const GUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The longest message of a datagram, and of a question by whatever way.
const LONGEST: usize = 1500;

/// How long guests are told that an answer holds.
const HOLDS_SECONDS: std::ops::RangeInclusive<u32> = 5..=300;

/// Answers datagrams until that is impossible.
pub(super) async fn answer_datagrams(gate: &Arc<Gate>, socket: UdpSocket) -> io::Error {
    let (socket, room) = (Arc::new(socket), Arc::new(Semaphore::new(AT_ONCE)));
    let mut buffer = [0; LONGEST];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An answer that could not be delivered is told here, too.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return error,
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let (gate, socket, message) = (gate.clone(), socket.clone(), buffer[..length].to_vec());
        tokio::spawn(async move {
            if let Some(answer) = gate.answer(&message).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(permit);
        });
    }
}

/// The same for streams, each of one question.
pub(super) async fn answer_streams(gate: &Arc<Gate>, listener: TcpListener) -> io::Error {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return io::ErrorKind::BrokenPipe.into() };
        let Ok((mut stream, _)) = listener.accept().await else {
            // Too many descriptors, for a moment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let gate = gate.clone();
        tokio::spawn(async move {
            let _ = timeout(GUEST_PATIENCE, gate.answer_stream(&mut stream)).await;
            drop(permit);
        });
    }
}

impl Gate {
    async fn answer_stream(&self, stream: &mut TcpStream) -> io::Result<()> {
        let length = usize::from(stream.read_u16().await?);
        if length > LONGEST {
            return Ok(());
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await?;
        if let Some(answer) = self.answer(&message).await {
            stream.write_u16(u16::try_from(answer.len()).map_err(io::Error::other)?).await?;
            stream.write_all(&answer).await?;
        }
        Ok(())
    }

    /// None for what is no question.
    async fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let question = dns::question(message)?;
        if !self.allows(&question.name) {
            self.refused.add();
            return Some(dns::reply(&question, Reply::Refused));
        }
        if question.kind != dns::A {
            return Some(dns::reply(&question, Reply::Nothing));
        }
        Some(match self.find(&question).await {
            Some((addresses, _)) if addresses.is_empty() => dns::reply(&question, Reply::Nothing),
            Some((addresses, seconds)) => dns::reply(&question, Reply::Addresses(&addresses, seconds)),
            None => dns::reply(&question, Reply::Failed),
        })
    }

    /// The addresses of a name that are told, and for how long; from then on they are admitted.
    async fn find(&self, question: &Question) -> Option<(Vec<Ipv4Addr>, u32)> {
        let Found { mut addresses, seconds } = look_up(&self.resolvers, &question.name).await?;
        let seconds = seconds.clamp(*HOLDS_SECONDS.start(), *HOLDS_SECONDS.end());
        let all = addresses.len();
        addresses.retain(|address| Self::is_public(*address));
        if addresses.len() < all {
            self.refused.add();
        }
        let holds = Duration::from_secs(seconds.into());
        self.admitted.admit(&question.name, &addresses, holds).then_some((addresses, seconds))
    }
}

/// What the first of these name servers says that answers.
pub(super) async fn look_up(resolvers: &[Ipv4Addr], name: &str) -> Option<Found> {
    for resolver in resolvers.iter().cycle().take(ATTEMPTS * resolvers.len()) {
        if let Ok(Ok(found)) = timeout(PATIENCE, ask(*resolver, name)).await {
            return Some(found);
        }
    }
    None
}

/// One question, from a port of its own. Answers of others are not looked at.
async fn ask(resolver: Ipv4Addr, name: &str) -> io::Result<Found> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect((resolver, 53)).await?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let id = u16::from_ne_bytes(id);
    socket.send(&dns::query(id, name)).await?;
    let mut buffer = [0; LONGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(found) = dns::addresses(&buffer[..length], id, name) {
            return Ok(found);
        }
    }
}
