//! Connections to guests, made from inside their namespaces.
//!
//! One thread, for all sandboxes, enters a namespace, opens a socket there, returns and hands the socket over. The
//! connecting itself is asynchronous and happens on the runtime.

use std::io;
use std::net::TcpStream as BlockingStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use futures::future::BoxFuture;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio_util::either::Either;

use super::address::GUEST_IP;
use super::namespace;
use super::seam::{Dial, GuestStream};

/// The way into the guest in one namespace. While this exists the namespace's memory stays, even after its removal.
#[derive(Debug)]
pub(super) struct InNamespace {
    pub namespace: Arc<OwnedFd>,
    pub sockets: Arc<SocketThread>,
}

impl Dial for InNamespace {
    fn dial(&self, port: u16) -> BoxFuture<'_, io::Result<GuestStream>> {
        Box::pin(async move {
            let socket = self.sockets.open(self.namespace.clone()).await?;
            let stream = socket.connect((GUEST_IP, port).into()).await?;
            stream.set_nodelay(true)?;
            Ok(Either::Left(stream))
        })
    }
}

/// The thread that opens sockets in namespaces. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct SocketThread {
    requests: Mutex<mpsc::Sender<Request>>,
}

#[derive(Debug)]
struct Request {
    namespace: Arc<OwnedFd>,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

impl SocketThread {
    /// Starts the thread, whose home is the namespace of the calling thread.
    pub fn start() -> io::Result<Self> {
        Ok(Self { requests: Mutex::new(start_thread()?) })
    }

    /// A TCP socket that belongs to `namespace`.
    pub async fn open(&self, namespace: Arc<OwnedFd>) -> io::Result<TcpSocket> {
        let (answer, answered) = oneshot::channel();
        self.send(Request { namespace, answer })?;
        let ended = |_| io::Error::other("the thread that opens sockets in namespaces ended");
        let socket = answered.await.map_err(ended)??;
        Ok(TcpSocket::from_std_stream(BlockingStream::from(socket)))
    }

    /// A thread that had to end is replaced.
    fn send(&self, request: Request) -> io::Result<()> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(mpsc::SendError(request)) = requests.send(request) {
            *requests = start_thread()?;
            requests.send(request).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn start_thread() -> io::Result<mpsc::Sender<Request>> {
    let home = namespace::current()?;
    let (requests, received) = mpsc::channel();
    std::thread::Builder::new().name("sp-netns-socket".to_owned()).spawn(move || serve(&home, &received))?;
    Ok(requests)
}

fn serve(home: &OwnedFd, requests: &mpsc::Receiver<Request>) {
    for Request { namespace, answer } in requests {
        let socket = open_in(&namespace);
        let returned = namespace::enter(home);
        // Nobody listens if the caller gave up; the socket then closes.
        let _ = answer.send(socket);
        if let Err(error) = returned {
            tracing::error!(%error, "the socket thread could not return to its namespace and ends");
            return;
        }
    }
}

fn open_in(namespace: impl AsFd) -> io::Result<OwnedFd> {
    namespace::enter(namespace)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
}
