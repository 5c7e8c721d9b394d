//! The way to a cloud's emulator: before and after each request that changes something, the process may die.

use std::sync::Arc;

use async_trait::async_trait;

use super::fate::Fate;
use crate::emulators::Emulator;
use crate::provider::http::{Request, Response, Wire, WireError};

#[derive(Debug)]
pub(super) struct Perilous {
    pub(super) emulator: Arc<dyn Emulator>,
    pub(super) fate: Fate,
}

#[async_trait]
impl Wire for Perilous {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        let action = request.parameter("Action").unwrap_or_default();
        let reads = request.method == reqwest::Method::GET
            || ["Describe", "Get"].iter().any(|reading| action.starts_with(reading));
        let what = |when: &str| {
            let path = request.url.splitn(4, '/').last().unwrap_or_default();
            format!("{when} {} {path} {action}", request.method)
        };
        let dead = |_| WireError::Lost("the process is dead".to_owned());
        if !reads {
            self.fate.reach(|| what("send")).map_err(dead)?;
        }
        let answer = self.emulator.send(request).await;
        if !reads {
            self.fate.reach(|| what("answer to")).map_err(dead)?;
        }
        answer
    }
}
