//! `sync/<source>`: brings a source to the host. Digests nothing and decides nothing about what belongs to it.

use super::host::{Backoff, RETRIES};
use super::{StepContext, StepError, StepOutcome};
use crate::inputs::Tree;
use crate::spec::Name;
use crate::transport::SyncRequest;

/// Copies the tree's files and deletes exactly those that an earlier sync brought and that are gone since.
pub(super) async fn run(context: &StepContext, name: &Name) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let missing = || StepError::Failed(format!("source {name} is not on this machine"));
    let source = spec.sources.get(name).ok_or_else(missing)?;
    let tree = context.run.inputs.trees.get(name).ok_or_else(missing)?;
    let session = &context.run.session;
    let recorded = session.dir().tree(name)?;
    let remove = recorded.as_ref().map(|old| tree.removed(old)).unwrap_or_default();
    if let Some(old) = &recorded {
        // From here on the host may have the files of both, and a run that is cut short must not forget the old ones.
        let kept = old.entries.iter().filter(|entry| remove.binary_search(&entry.path).is_ok());
        session.put_tree(name, &Tree::new(kept.chain(&tree.entries).cloned().collect()))?;
    } else {
        session.put_tree(name, tree)?;
    }
    let files: Vec<String> = tree.entries.iter().map(|entry| entry.path.clone()).collect();
    let request = SyncRequest {
        name: name.to_string(),
        from: source.folder.path.clone(),
        to: source.to.clone(),
        files,
        remove,
        timeout: context.step.timeout,
    };
    let remote = context.remote()?;
    let mut backoff = Backoff::new();
    let stats = loop {
        match remote.sync(&request).await {
            Err(error) if error.is_connection() && backoff.tries < RETRIES => {
                context.note(format!("{error}; tries again"));
                context.pause(backoff.next()).await?;
            }
            other => break other?,
        }
    };
    session.put_tree(name, tree)?;
    let summary = match (stats.transferred, stats.deleted) {
        (0, 0) => "unchanged".to_owned(),
        (sent, 0) => count(sent),
        (0, gone) => format!("{gone} removed"),
        (sent, gone) => format!("{}, {gone} removed", count(sent)),
    };
    let facts = [("files".to_owned(), request.files.len().to_string())].into();
    Ok(StepOutcome { summary, facts })
}

fn count(files: u64) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, name};
    use super::*;
    use crate::inputs::{TreeEntry, TreeKind};
    use crate::plan::{Action, Work};
    use crate::spec::{LocalFile, Source};

    fn tree(paths: &[&str]) -> Tree {
        let kind = TreeKind::Symlink { target: "x".to_owned() };
        Tree::new(
            paths.iter().map(|path| TreeEntry { path: (*path).to_owned(), kind: kind.clone() }).collect(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_cut_short_sync_brought_is_still_removed_later() {
        let mut bench = Bench::new().with_host();
        let folder = LocalFile { path: "/src".into(), written: String::new(), key: String::new() };
        let source = Source { folder, to: "/home/mvm/s".to_owned(), exclude: vec![] };
        bench.spec.sources.insert(name("s"), source);
        let work = Work::Sync(name("s"));
        let sync = async |bench: &Bench| run(&bench.context(work.clone(), Action::Create), &name("s")).await;

        assert!(sync(&bench).await.unwrap_err().to_string().contains("not on this machine"));
        bench.inputs.trees.insert(name("s"), tree(&["a", "b"]));
        bench.host.drop_connection();
        assert_eq!(sync(&bench).await.unwrap().summary, "2 files");
        // This one brings c and loses b, but its answer never comes.
        bench.inputs.trees.insert(name("s"), tree(&["a", "c"]));
        (0..4).for_each(|_| bench.host.drop_connection());
        assert!(sync(&bench).await.is_err());
        bench.inputs.trees.insert(name("s"), tree(&["a"]));
        assert_eq!(sync(&bench).await.unwrap().summary, "2 files, 2 removed");
        let last = bench.host.syncs.lock().unwrap().last().unwrap().clone();
        assert_eq!((last.files, last.remove), (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]));
    }
}
