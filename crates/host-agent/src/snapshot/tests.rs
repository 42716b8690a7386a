//! How baked images are made once, given up, and evicted; with files that stand for real captures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::manifest::tests::origin;
use super::{BakeError, BakeKey, Bakes, EMPTY_OVERLAY, MEMORY, Manifest, OVERLAY, STATE};

const LARGE: u64 = 1 << 40;

/// Fills a directory as a bake does; the overlay takes a megabyte.
fn fill(stage: &Path) -> Result<(), String> {
    fs::write(stage.join(STATE), "devices").unwrap();
    File::create(stage.join(MEMORY)).unwrap().set_len(512 << 20).unwrap();
    fs::write(stage.join(OVERLAY), vec![1; 1 << 20]).unwrap();
    fs::write(stage.join(EMPTY_OVERLAY), "").unwrap();
    let mut manifest = Manifest::new(origin());
    manifest.digest(stage, &[STATE]).and_then(|()| manifest.write(stage)).map_err(|error| error.to_string())
}

fn names(data_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(data_dir.join("bakes")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn get_filled(bakes: &Bakes, name: &str) -> Result<super::Frozen, BakeError> {
    let make = |stage: PathBuf, _| async move { fill(&stage) };
    bakes.get(&BakeKey::named(name), &origin(), make, &CancellationToken::new()).await
}

#[tokio::test]
async fn all_who_ask_at_once_wait_for_one_making() {
    let directory = tempfile::tempdir().unwrap();
    let bakes = Bakes::open(directory.path(), LARGE).unwrap();
    let (made, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let get = || {
        let (made, go) = (made.clone(), go.clone());
        let make = move |stage: PathBuf, _| async move {
            made.fetch_add(1, Ordering::Relaxed);
            go.notified().await;
            fill(&stage)
        };
        let bakes = &bakes;
        async move { bakes.get(&BakeKey::named("a"), &origin(), make, &CancellationToken::new()).await }
    };
    let (one, two, three, ()) = tokio::join!(get(), get(), get(), async { go.notify_one() });
    assert_eq!([one, two, three].map(|result| result.unwrap().memory().is_file()), [true; 3]);
    assert_eq!(made.load(Ordering::Relaxed), 1);
    get_filled(&bakes, "a").await.unwrap();
    assert_eq!(names(directory.path()), ["a"]);
}

#[tokio::test]
async fn a_making_that_nobody_wants_any_more_is_undone_before_the_last_one_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let bakes = Bakes::open(directory.path(), LARGE).unwrap();
    let undone = Arc::new(AtomicUsize::new(0));
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let get = |cancel: CancellationToken| {
        let undone = undone.clone();
        let make = move |_: PathBuf, cancel: CancellationToken| async move {
            cancel.cancelled().await;
            tokio::task::yield_now().await;
            undone.fetch_add(1, Ordering::Relaxed);
            Err("cancelled".to_owned())
        };
        let bakes = &bakes;
        async move { bakes.get(&BakeKey::named("a"), &origin(), make, &cancel).await.unwrap_err() }
    };
    let waiting = get(second.clone());
    tokio::pin!(waiting);
    let leaving = async {
        let left = get(first.clone());
        tokio::pin!(left);
        assert!(futures::poll!(&mut left).is_pending());
        first.cancel();
        assert!(matches!(left.await, BakeError::Cancelled));
    };
    assert!(futures::poll!(&mut waiting).is_pending());
    leaving.await;
    assert_eq!(undone.load(Ordering::Relaxed), 0, "another one waits");
    second.cancel();
    assert!(matches!(waiting.await, BakeError::Cancelled));
    assert_eq!(undone.load(Ordering::Relaxed), 1);
    assert_eq!(names(directory.path()), Vec::<String>::new());
    get_filled(&bakes, "a").await.expect("what was given up is no failure");
}

#[tokio::test(start_paused = true)]
async fn a_failure_leaves_nothing_and_is_not_tried_again_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let bakes = Bakes::open(directory.path(), LARGE).unwrap();
    let make = |stage: PathBuf, _| async move {
        fill(&stage)?;
        Err("the guest never answered".to_owned())
    };
    let failed = bakes.get(&BakeKey::named("a"), &origin(), make, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(failed.to_string(), "the guest never answered");
    assert_eq!(names(directory.path()), Vec::<String>::new());
    assert!(matches!(get_filled(&bakes, "a").await, Err(BakeError::FailedRecently)));
    get_filled(&bakes, "b").await.expect("another image is another matter");
    tokio::time::advance(Duration::from_secs(61)).await;
    get_filled(&bakes, "a").await.unwrap();
}

#[tokio::test]
async fn the_least_recently_used_image_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let bakes = Bakes::open(directory.path(), (5 << 20) / 2).unwrap();
    for (name, age) in [("a", 300), ("b", 200)] {
        get_filled(&bakes, name).await.unwrap();
        let manifest =
            File::options().append(true).open(directory.path().join("bakes").join(name).join("manifest.json"));
        manifest.unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    get_filled(&bakes, "a").await.unwrap();
    get_filled(&bakes, "c").await.unwrap();
    assert_eq!(names(directory.path()), ["a", "c"], "b was not used for longest");
}

#[tokio::test]
async fn what_a_killed_server_left_unfinished_is_removed_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let bakes = Bakes::open(directory.path(), LARGE).unwrap();
    get_filled(&bakes, "a").await.unwrap();
    fs::create_dir(directory.path().join("bakes/b.staged")).unwrap();
    let bakes = Bakes::open(directory.path(), LARGE).unwrap();
    assert_eq!(names(directory.path()), ["a"]);
    bakes.discard(&BakeKey::named("a"));
    assert_eq!(names(directory.path()), Vec::<String>::new());
}
