//! Each migration over example rows: what was written before it is read after it.

use rusqlite::Connection;

use crate::store::{House, at, file, observed, open};
use ringback::domain::{After, Payload};
use ringback::store::Remember;

/// Rows in every table that holds any, as name and count.
fn rows(path: &std::path::Path) -> Vec<(String, i64)> {
    let file = Connection::open(path).expect("opens");
    let mut names = file
        .prepare(
            "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by name",
        )
        .expect("a statement");
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).expect("read").collect::<Result<_, _>>().expect("names");
    let count = |name: &String| {
        file.query_row(&format!("select count(*) from {name}"), [], |row| row.get(0)).expect("counted")
    };
    names.iter().map(|name| (name.clone(), count(name))).collect()
}

#[tokio::test]
async fn every_table_of_schema_1_is_filled_and_read_back_by_this_version() {
    let house = House::new().await;
    let mut watch = house.follower("job_1");
    watch.payload = Payload::Raw;
    let remember =
        Remember { app: house.app, path: "/".to_owned(), key: "k".to_owned(), request: [1; 32], seal: None };
    house.store.register(crate::store::asked(watch.clone(), Some(remember))).await.expect("registered");
    let job = house.shown(watch.id).await.job_no;
    house.store.observe(observed(job, 0, 10, at(5))).await.expect("taken");
    let mut end = crate::store::ended(job, 0, ringback::domain::EndingKind::Completed, at(60));
    end.raw = Some(b"{}".as_slice().into());
    house.store.end(end).await.expect("ended");
    let send = crate::store::sends(&house.store).pop().expect("the ending");
    house.record(&send, false, After::Again { step: 1, due_at: at(100) }).await;
    let shown = format!("{:?}", house.shown(watch.id).await);
    let delivery = format!("{:?}", house.shown_delivery(send.id).await);
    let story = format!("{:?}", house.store.story(house.app, watch.id).await.expect("read"));
    let events = house.events().await;

    let (folder, place) = house.close().await;
    let before = rows(file(&place));
    assert!(before.iter().all(|(_, count)| *count > 0), "an example of everything: {before:?}");
    let (again, closing) = open(&place, at(200)).expect("opens again");
    drop(again);
    closing.join();
    assert_eq!(rows(file(&place)), before);
    let db = Connection::open(file(&place)).expect("opens");
    let version: i64 = db.query_row("pragma user_version", [], |row| row.get(0)).expect("read");
    assert_eq!(version, 2);
    drop(db);

    let house = House::at(folder, place, at(200)).await;
    assert_eq!(format!("{:?}", house.shown(watch.id).await), shown);
    assert_eq!(format!("{:?}", house.shown_delivery(send.id).await), delivery);
    assert_eq!(format!("{:?}", house.store.story(house.app, watch.id).await.expect("read")), story);
    assert_eq!(house.events().await, events);
    let raw = house.page(at(100), 9, &[]).await.sends.pop().expect("due");
    assert_eq!((&*raw.body, raw.destination), (b"{}".as_slice(), send.destination));
}
