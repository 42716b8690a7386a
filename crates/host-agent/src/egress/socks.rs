//! SOCKS5 as a client speaks it (RFC 1928, and RFC 1929 for who it is): from a connection to a proxy to one that it has made
//! for us. Every byte of the proxy's may be hostile; none is more than asked for.

use std::io;
use std::net::SocketAddrV4;

use model::{Login, Secret};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 5;
const NOBODY: u8 = 0;
const BY_PASSWORD: u8 = 2;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Where a connection is to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// To an address.
    Address(SocketAddrV4),
    /// To whatever the proxy finds under a name, and a port there.
    Name(String, u16),
}

/// Why a proxy does not serve. The guest sees its connection end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocksError {
    /// The connection to it.
    #[error("speak with the proxy")]
    Talk(#[from] io::Error),
    /// It says something else than this protocol does.
    #[error("the proxy does not speak SOCKS5")]
    NotSocks,
    /// It wants to know who we are, in a way that we do not have or by a login that it does not know.
    #[error("the proxy does not let us in")]
    NotLetIn,
    /// It does not connect.
    #[error("the proxy does not connect (answer {0})")]
    Refused(u8),
}

/// Has the proxy at the other end of `stream` connect to a destination. What follows on the stream is the destination's.
pub(super) async fn connect<S>(
    stream: &mut S,
    login: Option<&Login<Secret>>,
    destination: &Destination,
) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ways: &[u8] = if login.is_some() { &[NOBODY, BY_PASSWORD] } else { &[NOBODY] };
    stream.write_all(&[&[VERSION, length(ways)?][..], ways].concat()).await?;
    stream.flush().await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, login) {
        ([VERSION, NOBODY], _) => {}
        ([VERSION, BY_PASSWORD], Some(login)) => log_in(stream, login).await?,
        ([VERSION, _], _) => return Err(SocksError::NotLetIn),
        _ => return Err(SocksError::NotSocks),
    }
    stream.write_all(&request(destination)?).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    match answer {
        [VERSION, 0, _, kind] => skip_address(stream, kind).await,
        [VERSION, refused, ..] => Err(SocksError::Refused(refused)),
        _ => Err(SocksError::NotSocks),
    }
}

async fn log_in<S>(stream: &mut S, login: &Login<Secret>) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let username = login.username.as_bytes();
    let password = login.password.as_ref().map_or(&b""[..], |password| password.reveal().as_bytes());
    let message = [&[PASSWORD_VERSION, length(username)?][..], username, &[length(password)?], password].concat();
    stream.write_all(&message).await?;
    stream.flush().await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    match answer {
        [PASSWORD_VERSION, 0] => Ok(()),
        [PASSWORD_VERSION, _] => Err(SocksError::NotLetIn),
        _ => Err(SocksError::NotSocks),
    }
}

fn request(destination: &Destination) -> Result<Vec<u8>, SocksError> {
    let mut message = vec![VERSION, CONNECT, 0];
    let port = match destination {
        Destination::Address(address) => {
            message.push(IPV4);
            message.extend(address.ip().octets());
            address.port()
        }
        Destination::Name(name, port) => {
            message.extend([NAME, length(name.as_bytes())?]);
            message.extend(name.as_bytes());
            *port
        }
    };
    message.extend(port.to_be_bytes());
    Ok(message)
}

/// From where the proxy has connected, which nobody asks.
async fn skip_address<S: AsyncRead + Unpin>(stream: &mut S, kind: u8) -> Result<(), SocksError> {
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        _ => return Err(SocksError::NotSocks),
    };
    stream.read_exact(&mut vec![0; length + 2]).await?;
    Ok(())
}

fn length(bytes: &[u8]) -> io::Result<u8> {
    u8::try_from(bytes.len()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn login(password: Option<&str>) -> Login<Secret> {
        let password = password.map(|text| Secret::password(text.to_owned()).unwrap());
        Login { username: "user".to_owned(), password }
    }

    /// What is said to a proxy that answers so, and what comes of it.
    async fn against(
        login: Option<&Login<Secret>>,
        destination: &Destination,
        answers: &[u8],
    ) -> (Vec<u8>, Result<(), SocksError>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(answers).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = connect(&mut ours, login, destination).await;
        let mut rest = Vec::new();
        if result.is_ok() {
            ours.read_to_end(&mut rest).await.unwrap();
        }
        drop(ours);
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).await.unwrap();
        (said, result, rest)
    }

    fn server() -> Destination {
        Destination::Address("203.0.113.9:443".parse().unwrap())
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_an_address_and_what_follows_is_the_destination_s() {
        let answers = [&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"hello"].concat();
        let (said, result, rest) = against(None, &server(), &answers).await;
        result.unwrap();
        assert_eq!(said, [5, 1, 0, 5, 1, 0, 1, 203, 0, 113, 9, 1, 187]);
        assert_eq!(rest, b"hello");
    }

    #[tokio::test]
    async fn a_name_is_left_to_the_proxy_and_a_login_is_said_where_it_is_asked_for() {
        let name = Destination::Name("a.b".to_owned(), 80);
        let answers = [5, 2, 1, 0, 5, 0, 0, 3, 1, b'x', 0, 0];
        let (said, result, rest) = against(Some(&login(Some("secret"))), &name, &answers).await;
        result.unwrap();
        assert_eq!(said, b"\x05\x02\x00\x02\x01\x04user\x06secret\x05\x01\x00\x03\x03a.b\x00\x50");
        assert_eq!(rest, b"");
        let (said, result, _) = against(Some(&login(None)), &name, &answers).await;
        result.unwrap();
        assert!(said.starts_with(b"\x05\x02\x00\x02\x01\x04user\x00\x05"), "{said:?}");
        let open = [5, 0, 5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (said, result, _) = against(Some(&login(Some("secret"))), &name, &open).await;
        result.unwrap();
        assert!(!said.windows(6).any(|bytes| bytes == b"secret"), "nobody asked");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_or_speaks_otherwise_connects_nothing() {
        let check = async |answers: &[u8]| against(Some(&login(Some("x"))), &server(), answers).await.1.unwrap_err();
        assert!(matches!(check(&[5, 255]).await, SocksError::NotLetIn));
        assert!(matches!(check(&[5, 2, 1, 1]).await, SocksError::NotLetIn));
        assert!(matches!(check(&[5, 0, 5, 2, 0, 1]).await, SocksError::Refused(2)));
        assert!(matches!(check(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, SocksError::NotSocks));
        assert!(matches!(check(&[5, 0, 5, 0, 0, 9]).await, SocksError::NotSocks));
        assert!(matches!(check(&[5, 0, 5, 0]).await, SocksError::Talk(_)));
        let unasked = against(None, &server(), &[5, 2, 1, 0]).await.1;
        assert!(matches!(unasked, Err(SocksError::NotLetIn)), "a login that there is not");
    }

    proptest! {
        #[test]
        fn no_answer_does_any_harm(answers in proptest::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(against(Some(&login(Some("x"))), &server(), &answers));
        }
    }
}
