//! The way to a cloud's emulator: at each request the process may die, the cloud may refuse, the answer may get lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::cloud::Cloud;
use crate::emulators::{self, Emulator, Refusal};
use crate::provider::http::{Request, Response, Wire, WireError};

#[derive(Debug)]
pub(super) struct Perilous {
    pub(super) adapter: &'static str,
    pub(super) emulator: Arc<dyn Emulator>,
    pub(super) cloud: Cloud,
}

impl Perilous {
    /// Draws whether the weather strikes now; each request has two such moments, and the emulator's cloud has its own.
    fn strikes(&self) -> bool {
        let mut ledger = self.cloud.ledger();
        let percent = ledger.weather.cloud.div_ceil(3);
        ledger.happens(percent)
    }

    fn draw(&self, kinds: u8) -> u8 {
        self.cloud.ledger().rng.u8(..kinds)
    }
}

/// What a load balancer says in a cloud's place.
fn gateway(status: u16) -> Response {
    Response { status, headers: vec![], body: b"<html>upstream connect error".to_vec() }
}

#[async_trait]
impl Wire for Perilous {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        let action = request.parameter("Action").unwrap_or_default();
        let reads = emulators::reads(request);
        let what = |when: &str| {
            let path = request.url.splitn(4, '/').last().unwrap_or_default();
            format!("{when} {} {path} {action}", request.method)
        };
        let dead = |_| WireError::Lost("the process is dead".to_owned());
        self.cloud.fate.reach(|| what(if reads { "ask" } else { "send" })).map_err(dead)?;
        if self.strikes() {
            return match self.draw(4) {
                0 => Err(WireError::NotSent("connection refused".to_owned())),
                1 => Ok(gateway(503)),
                2 => emulators::refusal(self.adapter, Refusal::Busy),
                _ => {
                    let busy = emulators::refusal(self.adapter, Refusal::Busy)?;
                    let headers = vec![("retry-after".to_owned(), "2".to_owned())];
                    Ok(Response { headers, ..busy })
                }
            };
        }
        let answer = self.emulator.send(request).await;
        // Behind a read there is nothing that the point before the next request would not meet too.
        if !reads {
            self.cloud.fate.reach(|| what("answer to")).map_err(dead)?;
        }
        if self.strikes() {
            return match self.draw(4) {
                0 | 1 => Err(WireError::Lost("connection reset".to_owned())),
                2 => Ok(gateway(502)),
                _ => {
                    // Longer than anybody waits for an answer.
                    tokio::time::sleep(Duration::from_mins(2)).await;
                    answer
                }
            };
        }
        answer
    }
}
