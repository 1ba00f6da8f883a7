//! The bytes that a delivery sends.

use super::super::db::{Result, params};
use super::super::reads::ReadStore;
use super::BODY;
use crate::domain::{AppNo, DeliveryId};

impl ReadStore {
    /// Returns the bytes that every attempt of a delivery sends. For a channel that renders its messages, these are the
    /// event that they are rendered from. `None`: the app has no such delivery.
    pub async fn delivery_body(&self, app: AppNo, id: DeliveryId) -> Result<Option<Vec<u8>>> {
        self.read(app, move |tx| {
            let sql = format!(
                "select {BODY} from deliveries d
                 join watches w on w.app = d.app and w.id = d.watch
                 join events e on e.id = d.event
                 join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
                 left join endings n on n.job = w.job and n.generation = d.raw_generation
                 where d.app = $1 and d.id = $2"
            );
            tx.find(&sql, params![app, id], |row| row.bytes(0))
        })
        .await
    }
}
