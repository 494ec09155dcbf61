//! Bad records and where they go: nothing is lost, nothing is skipped without trace, and what is good goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::producer::Producer as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::kafka::send;
use crate::support::shop::{order, wait_for_answer};
use crate::support::{Answer, Message, Record, Shop};

const PATIENCE: Duration = Duration::from_secs(60);

/// A value and the reason it is refused with.
const BAD: &[(Option<&[u8]>, &str)] = &[
    (None, "null-value"),
    (Some(b"null"), "null-value"),
    (Some(b" null\n"), "null-value"),
    (Some(b""), "bad-json"),
    (Some(b"  \n"), "bad-json"),
    (Some(b"{"), "bad-json"),
    (Some(br#"{"id":"1","items":[{"productId":"21""#), "bad-json"),
    (Some(b"\xef\xbb\xbf{}"), "bad-json"),
    (Some(b"\xff\xfe{\0}\0"), "bad-json"),
    (Some(br#"{"id":NaN}"#), "bad-json"),
    (Some(br#"{"id":01}"#), "bad-json"),
    (Some(br#"{"id":1,}"#), "bad-json"),
    (Some(br#"{'id':1}"#), "bad-json"),
    (Some(br#"{"id":1}{}"#), "bad-json"),
    (Some(b"{\"id\":\"\xe9\"}"), "bad-json"),
    (Some(br#"{"id":"\ud800"}"#), "bad-json"),
    (Some(b"[]"), "bad-shape"),
    (Some(br#""text""#), "bad-shape"),
    (Some(b"12"), "bad-shape"),
    (Some(b"true"), "bad-shape"),
    (Some(br#"{"items":"x"}"#), "bad-shape"),
    (Some(br#"{"items":{"productId":"21"}}"#), "bad-shape"),
    (Some(br#"{"items":7}"#), "bad-shape"),
];

/// K20: three streams read the same topic, each with its own word about bad records.
#[test]
fn k20_every_bad_record_is_a_dead_letter_a_counted_drop_or_the_end_of_its_stream() {
    let shop = Shop::open(1);
    let stream = |name: &str, bad: &str| {
        format!(
            "\n[streams.{name}]\nfrom = \"{0}\"\neach = \"items\"\nbad = \"{bad}\"\njoin.product = {{ table = \"products\", key = \"item.productId\" }}\nto = {{ topic = \"{1}-{name}\", key = \"$item.productId\", value = {{ order = \"$record.id\" }} }}\n",
            shop.orders, shop.name
        )
    };
    let config = shop.config() + &stream("lenient", "drop") + &stream("strict", "stop");
    let mut daemon = shop.start(&config);
    daemon.wait_ready();

    let deep = [br#"{"id":"#.to_vec(), b"[".repeat(64), b"]".repeat(64), b"}".to_vec()].concat();
    let mut bad: Vec<(Option<Vec<u8>>, &str)> = BAD.iter().map(|&(value, reason)| (value.map(<[u8]>::to_vec), reason)).collect();
    bad.push((Some(deep), "bad-json"));
    let mut inputs = vec![order("first", &["\"21\""])];
    for (number, (value, _)) in bad.iter().enumerate() {
        // Keys of every kind: none, empty, no text.
        let key = [None, Some(b"".to_vec()), Some(vec![0xff, 0]), Some(b"key".to_vec())][number % 4].clone();
        inputs.push(
            Message { key, value: value.clone(), ..Message::default() }.header("trace", number.to_string()).timestamp(1_700_000_000_000),
        );
    }
    let empty = [r#"{"id":"no items"}"#, r#"{"id":"null","items":null}"#, r#"{"id":"none","items":[]}"#];
    inputs.extend(empty.map(|value| Message::new("empty", value)));
    // Elements that lead to no product, between others that do.
    let mixed = r#"{"id":"mixed","items":[{"productId":"21"},{"quantity":1},17,null,"x",{"productId":"22"}]}"#;
    inputs.push(Message::new("mixed", mixed));
    let large: Vec<&str> = (0..10_000).map(|_| "\"36\"").collect();
    inputs.push(order("large", &large));
    inputs.push(order("last", &["\"1\""]));
    let count = inputs.len();
    shop.produce(inputs.clone());

    // Dead letters: the record as it was, and why.
    shop.wait_for_offsets("order-items", i64::try_from(count).expect("few"));
    let of_elements = 4;
    let dead = shop.wait_for_dead_letters(bad.len() + of_elements);
    assert_eq!(dead.len(), bad.len() + of_elements, "the other streams bury nothing");
    for (number, ((value, reason), dead)) in bad.iter().zip(&dead).enumerate() {
        let offset = number + 1;
        assert_eq!(dead.value, *value, "bytes unchanged");
        assert_eq!(dead.key, inputs[offset].key, "key unchanged");
        assert_eq!(dead.timestamp, Some(1_700_000_000_000));
        assert_eq!(dead.headers[0], ("trace".to_owned(), number.to_string().into_bytes()));
        let text = value.as_ref().map(|value| String::from_utf8_lossy(value));
        assert_headers(dead, &shop, "decode", reason, &format!("{}/0/{offset}", shop.orders), offset, &format!("{text:?}"));
    }
    let mixed_offset = 1 + bad.len() + empty.len();
    for (element, dead) in (1..=4).zip(&dead[bad.len()..]) {
        assert_eq!(dead.text(), mixed, "the whole record");
        assert_headers(dead, &shop, "join", "missing-row", &format!("{}/0/{mixed_offset}/{element}", shop.orders), mixed_offset, mixed);
    }

    // What is good went out, also of a record with bad elements, and all is counted (contract E18).
    let items = shop.wait_for_items(10_004);
    let keys: Vec<_> = items.iter().filter_map(Record::key_text).filter(|key| *key != "36").collect();
    assert_eq!((items.len(), keys), (10_004, vec!["21", "21", "22", "1"]));
    assert_eq!(items.last().and_then(|item| item.json()["orderId"].as_str().map(str::to_owned)).as_deref(), Some("last"));
    let lenient = shop.kafka.wait_for_records(&format!("{}-lenient", shop.name), 10_008, PATIENCE);
    assert_eq!(lenient.len(), 10_008, "without a policy a missing row is null");
    let answer = wait_for_answer(&mut daemon, "/api/streams", |answer| {
        ["order-items", "lenient"].iter().all(|name| stream_of(answer, name)["records"] == json!(count))
    });
    let [items, lenient, strict] = ["order-items", "lenient", "strict"].map(|name| stream_of(&answer, name));
    assert_eq!((&items["outputs"], &items["dead_letters"]), (&json!(10_004), &json!(bad.len() + of_elements)));
    assert_eq!((&lenient["outputs"], &lenient["dead_letters"]), (&json!(10_008), &json!(0)));
    let metrics = daemon.get("/metrics").body;
    for (stream, reason, dropped) in [("order-items", "empty", 3), ("lenient", "empty", 3), ("lenient", "bad-record", bad.len())] {
        let line = format!("larder_stream_dropped_total{{stream=\"{stream}\",reason=\"{reason}\"}} {dropped}\n");
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    let mut reasons = BTreeMap::<_, usize>::new();
    bad.iter().for_each(|(_, reason)| *reasons.entry(*reason).or_default() += 1);
    for (reason, dead) in reasons {
        let line = format!("larder_dead_letters_total{{reason=\"{reason}\"}} {dead}\n");
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }

    // The strict stream stands at its first bad record, alone.
    assert_eq!((&strict["state"], &strict["records"]), (&json!("stopped"), &json!(1)));
    let place = format!("{}/0/1", shop.orders);
    assert!(strict["reason"].as_str().is_some_and(|reason| reason.starts_with(&format!("bad-record: {place}: "))), "{}", strict);
    assert_eq!(shop.kafka.read(&format!("{}-strict", shop.name)).len(), 1);
    assert_eq!(shop.kafka.committed(&format!("{}.strict", shop.name), &shop.orders), [(0, 1)].into());
    let ready = daemon.get("/ready");
    assert_eq!(ready.status, 503);
    let waiting = ready.json()["waiting"].clone();
    assert!(waiting[0].as_str().is_some_and(|line| line.starts_with("stream strict: stopped, bad-record: ")), "{waiting}");
    assert_eq!(waiting[1], Value::Null, "the others are ready");
    assert_eq!(daemon.terminate(), Some(0), "it stops in order all the same");
}

/// K26: the topic takes less than what we want to write.
#[test]
fn k26_an_output_too_large_for_its_topic_becomes_a_reference_and_the_others_go_out() {
    const TAKES: usize = 5000;
    let shop = Shop::open(1);
    shop.kafka.create_topic(&shop.items, 1, &[("max.message.bytes", &TAKES.to_string())]);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    // Notes that cannot be compressed: a batch of a few is larger than one record may be.
    let mut state = 1_u64;
    let mut noise = |length: usize| -> String {
        let character = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(state >> 58) as usize])
        };
        (0..length).map(character).collect()
    };
    // Around the limit byte by byte: a record is more than its key and value.
    let lengths: Vec<usize> = (0..300).map(|_| 400).chain([20_000]).chain((4300..4900).step_by(7)).chain((0..300).map(|_| 400)).collect();
    let orders: Vec<Message> = lengths
        .iter()
        .enumerate()
        .map(|(number, &length)| {
            Message::new(number.to_string(), format!(r#"{{"id":{number},"items":[{{"productId":1,"note":"{}"}}]}}"#, noise(length)))
        })
        .collect();
    shop.produce(orders.clone());
    shop.wait_for_offsets("order-items", i64::try_from(orders.len()).expect("few"));

    let items = shop.kafka.read(&shop.items);
    let dead = shop.kafka.read(&shop.dead_letters());
    let mut seen: Vec<i64> = items.iter().map(|item| item.json()["orderId"].as_i64().expect("a number")).collect();
    assert!(seen.is_sorted(), "in order");
    for dead in &dead {
        let offset = dead.header("__connect.errors.offset").and_then(|offset| offset.parse::<usize>().ok()).expect("an offset");
        let value = orders[offset].value.as_deref().expect("a value");
        let digest: String = Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect();
        let origin = format!("{}/0/{offset}/0", shop.orders);
        assert_headers(dead, &shop, "shape", "too-large", &origin, offset, "");
        assert_eq!(dead.json(), json!({ "origin": origin, "bytes": value.len(), "sha256": digest }));
        assert_eq!(dead.key, orders[offset].key);
        assert!(value.len() > TAKES - 700, "{} bytes would have fit", value.len());
        seen.push(i64::try_from(offset).expect("few"));
    }
    assert!(dead.iter().any(|dead| dead.header("__connect.errors.offset") == Some("300")));
    assert!(items.iter().any(|item| item.text().len() > TAKES - 400), "the limit is used");
    seen.sort_unstable();
    assert_eq!(
        seen,
        (0..orders.len()).map(|offset| i64::try_from(offset).expect("few")).collect::<Vec<_>>(),
        "each in one of the two, once"
    );
    assert_eq!(daemon.log().iter().filter(|line| line.contains("starts over")).count(), 0, "nothing is tried twice");
}

/// K14: what was never committed is never enriched.
#[test]
fn k14_aborted_transactions_are_not_read() {
    let shop = Shop::open(1);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    let till = shop.kafka.transactional_producer(&format!("{}-till", shop.name));
    for number in 0..20 {
        till.begin_transaction().expect("begin");
        for part in 0..5 {
            send(&till, &shop.orders, &order(&format!("{number}.{part}"), &["21"]));
        }
        till.flush(PATIENCE).expect("flush");
        if number % 2 == 0 { till.commit_transaction(PATIENCE) } else { till.abort_transaction(PATIENCE) }.expect("end");
    }
    shop.produce([order("last", &["22"])]);
    let items = shop.wait_for_items(51);
    let orders: Vec<String> = items.iter().map(|item| item.json()["orderId"].as_str().expect("text").to_owned()).collect();
    let committed = (0..20).step_by(2).flat_map(|number| (0..5).map(move |part| format!("{number}.{part}")));
    assert_eq!(orders, committed.chain(["last".to_owned()]).collect::<Vec<_>>());
    wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["lag"] == json!(0));
    assert_eq!(daemon.get("/api/streams").json()["streams"][0]["records"], json!(51));
}

fn stream_of(answer: &Answer, name: &str) -> Value {
    let list = answer.json()["streams"].clone();
    list.as_array().and_then(|list| list.iter().find(|stream| stream["name"] == json!(name)).cloned()).expect("the stream")
}

/// One record may become more than the memory for outputs holds: it is a dead letter, and what follows goes on.
#[test]
fn a_record_whose_outputs_exceed_their_memory_is_a_dead_letter() {
    let shop = Shop::open(1);
    // Without `value` every item carries its whole order.
    let config = shop.config();
    let (head, _) = config.split_once("[streams.order-items.to.value]").expect("the template");
    let config = format!(
        "{head}\n[limits]\nqueue_bytes = \"2 MiB\"\nmessage_bytes = \"100 KiB\"\n[http]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n"
    );
    let mut daemon = shop.start(&config);
    daemon.wait_ready();
    let many = vec!["21"; 400];
    let large = vec!["21"; 3000];
    shop.produce([order("many", &many), order("large", &large), order("few", &["21"])]);
    assert_eq!(shop.wait_for_items(1)[0].json()["id"], json!("few"));
    let dead = shop.wait_for_dead_letters(2);
    assert_headers(&dead[0], &shop, "shape", "too-large", &format!("{}/0/0", shop.orders), 0, "many");
    assert_eq!(dead[0].json()["bytes"], json!(order("many", &many).value.map(|value| value.len())));
    assert_headers(&dead[1], &shop, "decode", "too-large", &format!("{}/0/1", shop.orders), 1, "larger than limits.message_bytes");
    assert_eq!((dead.len(), shop.kafka.read(&shop.items).len()), (2, 1));
}

#[track_caller]
fn assert_headers(dead: &Record, shop: &Shop, stage: &str, reason: &str, origin: &str, offset: usize, of: &str) {
    for (name, value) in [
        ("__connect.errors.topic", shop.orders.as_str()),
        ("__connect.errors.partition", "0"),
        ("__connect.errors.offset", &offset.to_string()),
        ("__connect.errors.stage", stage),
        ("__connect.errors.exception.class.name", reason),
        ("larder-reason", reason),
        ("larder-origin", origin),
        ("larder-stream", "order-items"),
    ] {
        assert_eq!(dead.header(name), Some(value), "header {name} of {of}");
    }
    assert!(dead.header("__connect.errors.exception.message").is_some_and(|message| !message.is_empty()), "message of {of}");
}
