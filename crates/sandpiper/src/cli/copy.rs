//! `sandbox cp`: one file between this machine and a sandbox, streamed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use client::{Client, SandboxId};
use futures::StreamExt as _;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::output::as_file;
use super::server::ServerArgs;

/// Large enough that a file is not thousands of messages.
const CHUNK_BYTES: usize = 64 * 1024;

/// Flags of `sandbox cp`.
#[derive(Debug, Args)]
#[command(after_help = "One side is ID:PATH, the other a local file or - for standard input or output. Directories \
    above the target in the sandbox are made. A local name with a colon is written ./a:b.\n\n\
    Examples: sandpiper sandbox cp data.csv sb1:/tmp/    tar c . | sandpiper sandbox cp - sb1:/tmp/src.tar")]
pub struct CopyArgs {
    /// What to copy: ID:PATH, a local file or -
    #[arg(value_name = "SRC")]
    source: Place,
    /// Where to: ID:PATH, a local file or directory, or -
    #[arg(value_name = "DST")]
    target: Place,
    #[command(flatten)]
    server: ServerArgs,
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// `-`
    Standard,
    /// A file here.
    Local(PathBuf),
    /// A file in a sandbox.
    Remote(SandboxId, String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            _ if text.is_empty() => Err("it is empty".to_owned()),
            _ if text == "-" => Ok(Self::Standard),
            Some((head, _)) if head.contains('/') || head.starts_with('.') => Ok(Self::Local(text.into())),
            Some((_, "")) => Err("a path must follow the colon".to_owned()),
            Some((id, path)) => {
                let id = id.parse().map_err(|error| format!("{error}; write a local file as ./{text}"))?;
                Ok(Self::Remote(id, path.to_owned()))
            }
            None => Ok(Self::Local(text.into())),
        }
    }
}

/// Copies.
pub async fn run(args: &CopyArgs) -> anyhow::Result<ExitCode> {
    let client = args.server.client()?;
    match (&args.source, &args.target) {
        (Place::Local(file), Place::Remote(id, path)) => {
            upload_file(&client, file, id, &below(path, file.file_name().and_then(|name| name.to_str()))?).await?;
        }
        (Place::Standard, Place::Remote(id, path)) => {
            upload(&client, as_file(io::stdin())?, None, id, &below(path, None)?).await?;
        }
        (Place::Remote(id, path), Place::Local(file)) => download_file(&client, id, path, file).await?,
        (Place::Remote(id, path), Place::Standard) => {
            download(&client, id, path, &mut as_file(io::stdout())?).await?;
        }
        (Place::Remote(..), Place::Remote(..)) => {
            bail!("copying between sandboxes goes through a local file or a pipe")
        }
        _ => bail!("one side must be in a sandbox: ID:PATH"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The target's path: a directory (it ends with `/`) gets the source's name.
fn below(path: &str, name: Option<&str>) -> anyhow::Result<String> {
    match (path.ends_with('/'), name) {
        (false, _) => Ok(path.to_owned()),
        (true, Some(name)) => Ok(format!("{path}{name}")),
        (true, None) => bail!("{path} is a directory and the source has no name: write the whole path"),
    }
}

async fn upload_file(client: &Client, file: &Path, id: &SandboxId, path: &str) -> anyhow::Result<()> {
    let unreadable = || format!("{} cannot be read", file.display());
    let source = File::open(file).await.with_context(unreadable)?;
    let metadata = source.metadata().await.with_context(unreadable)?;
    if metadata.is_dir() {
        bail!("{} is a directory: pack it, as in `tar c DIR | sandpiper sandbox cp - ID:PATH`", file.display());
    }
    // Pipes and devices have no size that means anything.
    let size = metadata.is_file().then_some(metadata.len());
    upload(client, source, size, id, path).await
}

async fn upload(
    client: &Client,
    source: impl AsyncRead + Send + 'static,
    size: Option<u64>,
    id: &SandboxId,
    path: &str,
) -> anyhow::Result<()> {
    let content = ReaderStream::with_capacity(source, CHUNK_BYTES);
    client.write_file(id, path, content, size).await.with_context(|| format!("{id}:{path} is not written"))
}

async fn download_file(client: &Client, id: &SandboxId, path: &str, file: &Path) -> anyhow::Result<()> {
    let file = if file.is_dir() { file.join(name_of(path)?) } else { file.to_owned() };
    let unwritable = || format!("{} cannot be written", file.display());
    let mut options = OpenOptions::new();
    let (mut target, is_new) = match options.write(true).create_new(true).open(&file).await {
        Ok(target) => (target, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            (existing(&file).await.with_context(unwritable)?, false)
        }
        Err(error) => return Err(error).with_context(unwritable),
    };
    let copied = download(client, id, path, &mut target).await;
    if copied.is_err() && is_new {
        // Half a file under the right name would be taken for the whole.
        tokio::fs::remove_file(&file).await.with_context(|| format!("{} is incomplete", file.display()))?;
    }
    copied
}

async fn existing(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).truncate(true).open(file).await
}

fn name_of(path: &str) -> anyhow::Result<&str> {
    let name = path.rsplit('/').next().filter(|name| !matches!(*name, "" | "." | ".."));
    name.with_context(|| format!("{path} names no file"))
}

async fn download(
    client: &Client,
    id: &SandboxId,
    path: &str,
    target: &mut (impl AsyncWrite + Unpin),
) -> anyhow::Result<()> {
    let mut content = client.read_file(id, path).await.with_context(|| format!("{id}:{path} is not read"))?;
    while let Some(chunk) = content.next().await {
        target.write_all(&chunk.with_context(|| format!("{id}:{path} is not read completely"))?).await?;
    }
    Ok(target.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_local_remote_or_standard() {
        let remote = |path: &str| Ok(Place::Remote("sb1".parse().unwrap(), path.into()));
        for (text, expected) in [
            ("-", Ok(Place::Standard)),
            ("file", Ok(Place::Local("file".into()))),
            ("./a:b", Ok(Place::Local("./a:b".into()))),
            ("/a:b", Ok(Place::Local("/a:b".into()))),
            ("..:b", Ok(Place::Local("..:b".into()))),
            ("sb1:/etc/passwd", remote("/etc/passwd")),
            ("sb1:relative", remote("relative")),
            ("sb1:/a:b", remote("/a:b")),
            ("sb1:-", remote("-")),
        ] {
            assert_eq!(text.parse::<Place>(), expected, "{text}");
        }
        for wrong in ["", "sb1:", ":/etc", "C:\\x", "UPPER:/x"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_directory_gets_the_name_of_the_source() {
        assert_eq!(below("/tmp/x", Some("a")).unwrap(), "/tmp/x");
        assert_eq!(below("/tmp/", Some("a")).unwrap(), "/tmp/a");
        assert!(below("/tmp/", None).is_err());
        assert_eq!(name_of("/a/b.txt").unwrap(), "b.txt");
        for nameless in ["/", "/a/", "..", "/a/.."] {
            assert!(name_of(nameless).is_err(), "{nameless}");
        }
    }
}
