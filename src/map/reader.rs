//! Records as they come in, read on a thread of their own: a pipe on which nothing comes keeps no answer back, and no
//! Ctrl-C.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::records::{Record, Records};

/// Records that are read ahead.
const AHEAD: usize = 16;
/// Time that a wait lasts before its caller looks whether it should go on.
const PATIENCE: Duration = Duration::from_millis(100);

/// Records from a thread that reads them.
pub struct Reader {
    records: Receiver<Result<Record>>,
    /// There are no more.
    pub ended: bool,
}

impl Reader {
    /// Begins to read, at most `limit` records. The thread ends with them, or with the program.
    pub fn new(mut records: Records, limit: Option<usize>) -> Self {
        let (send, receive) = sync_channel(AHEAD);
        thread::spawn(move || {
            for _ in 0..limit.unwrap_or(usize::MAX) {
                let Some(record) = records.next_record().transpose() else { return };
                let failed = record.is_err();
                if send.send(record).is_err() || failed {
                    return;
                }
            }
        });
        Self { records: receive, ended: false }
    }

    /// The next record, if it is there; with `wait` after some time. Nothing at the end, too.
    ///
    /// # Errors
    /// When the input cannot be read any further.
    pub fn next(&mut self, wait: bool) -> Result<Option<Record>> {
        let next = if wait {
            self.records.recv_timeout(PATIENCE)
        } else {
            self.records.try_recv().map_err(|e| match e {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        };
        match next {
            Ok(record) => record.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                Ok(None)
            }
        }
    }

    /// The next record, however long it takes; nothing at the end.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn wait(&mut self) -> Result<Option<Record>> {
        self.records.recv().map_or(Ok(None), |record| record.map(Some))
    }
}
