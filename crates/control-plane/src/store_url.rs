//! Which database holds the records, as a person names it. What is printed of it holds no secrets.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

/// The database that holds the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// An embedded database in this file, made when it is missing.
    Sqlite(PathBuf),
    /// A database on a PostgreSQL server; its tables are made when they are missing.
    Postgres(PostgresUrl),
}

/// `postgres://user:password@host:port/database`, checked. Printing it shows neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(Url);

/// A text that names no database. It may hold a password, so it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a database is named by postgres://USER:PASSWORD@HOST/NAME or by sqlite:FILE; characters that are special in a URL are written as %XX"
)]
pub struct InvalidStoreUrl;

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        if let Some(file) = text.strip_prefix("sqlite:") {
            let file = file.strip_prefix("//").unwrap_or(file);
            return if file.is_empty() { Err(InvalidStoreUrl) } else { Ok(Self::Sqlite(file.into())) };
        }
        let url = Url::parse(text).map_err(|_| InvalidStoreUrl)?;
        match url.scheme() {
            "postgres" | "postgresql" if url.has_host() => Ok(Self::Postgres(PostgresUrl(url))),
            _ => Err(InvalidStoreUrl),
        }
    }
}

impl PostgresUrl {
    /// The whole URL, for the driver alone.
    pub(crate) fn secret(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        let port = self.0.port().map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "{}://{host}{port}{}", self.0.scheme(), self.0.path())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_holds_no_secret() {
        for text in [
            "postgres://alice:s3cret@db.example:5433/sandpiper",
            "postgres://alice:s3cret%2F@db.example:5433/sandpiper?sslmode=disable",
            "postgres://db.example:5433/sandpiper?user=alice&password=s3cret",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), "postgres://db.example:5433/sandpiper");
            let debug = format!("{url:?}");
            assert!(!debug.contains("s3cret") && !debug.contains("alice"), "{debug}");
        }
    }

    #[test]
    fn other_texts_are_refused_without_being_repeated() {
        for text in ["", "s3cret", "mysql://a:s3cret@b/c", "postgres:s3cret", "postgres://a:s3/cret@b/c", "sqlite:"] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(!error.to_string().contains("s3"), "{text}");
        }
    }

    #[test]
    fn a_file_is_named_by_sqlite() {
        for text in ["sqlite:/var/lib/x.db", "sqlite:///var/lib/x.db"] {
            assert_eq!(text.parse(), Ok(StoreUrl::Sqlite("/var/lib/x.db".into())));
        }
    }
}
