use super::*;

const TIMEOUT: Duration = Duration::from_millis(50);
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

fn place() -> Place {
    Place::new(Clock::start(), EPOCH)
}

fn key() -> Key {
    "main".into()
}

fn write(over: Option<u64>, tag: u64) -> Write {
    Write {
        over: over.map(Tag),
        tag: Tag(tag),
        value: Bytes::from(tag.to_string()),
        keep: Duration::from_secs(10),
        hint: Bytes::from(tag.to_string()),
    }
}

/// `Ok` with the tag if it was written, the tag that is there, or the fault.
async fn exchanged(here: &Here, write: Option<Write>) -> Result<&'static str, String> {
    match Register::exchange(here, &key(), write).await {
        Ok(Exchanged::Written { .. }) => Ok("written"),
        Ok(Exchanged::Found(Found { current: None, .. })) => Ok("nothing"),
        Ok(Exchanged::Found(found)) => {
            let (tag, value) = found.current.unwrap();
            assert_eq!(value, tag.0.to_string());
            Err(value.iter().map(|byte| char::from(*byte)).collect())
        }
        Err(failure) => Err(failure.fault.label().to_owned()),
    }
}

/// What is there, past all lines.
fn there(place: &Place) -> Option<u64> {
    match place.exchange(&key(), None) {
        Exchanged::Found(found) => found.current.map(|(tag, _)| tag.0),
        Exchanged::Written { .. } => unreachable!("a mere read"),
    }
}

async fn next(hints: &mut mpsc::Receiver<Hint>) -> String {
    match tokio::time::timeout(Duration::from_secs(1), hints.recv()).await {
        Ok(Some(Hint::Told(_, hint))) => String::from_utf8_lossy(&hint).into_owned(),
        Ok(Some(Hint::Missed)) => "missed".to_owned(),
        Ok(None) => "end".to_owned(),
        Err(_elapsed) => "silence".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_is_replaced_if_it_is_the_expected_one_and_is_kept_for_its_time() {
    let place = place();
    let (one, other) = (place.join(TIMEOUT, 1), place.join(TIMEOUT, 2));
    assert_eq!(exchanged(&one, None).await, Ok("nothing"));
    assert_eq!(
        exchanged(&one, Some(write(Some(9), 1))).await,
        Ok("nothing")
    );
    assert_eq!(exchanged(&one, Some(write(None, 1))).await, Ok("written"));
    assert_eq!(
        exchanged(&other, Some(write(None, 2))).await,
        Err("1".into())
    );
    assert_eq!(
        exchanged(&other, Some(write(Some(1), 2))).await,
        Ok("written")
    );
    assert_eq!(exchanged(&one, None).await, Err("2".into()));

    sleep(Duration::from_secs(10)).await;
    assert_eq!(exchanged(&one, None).await, Ok("nothing"));
    let mut large = write(None, 3);
    large.value = Bytes::from(vec![0; MAX_VALUE + 1]);
    assert_eq!(exchanged(&one, Some(large)).await, Err("refused".into()));
}

#[tokio::test(start_paused = true)]
async fn its_clock_goes_on_and_may_be_set() {
    let place = place();
    let here = place.join(TIMEOUT, 1);
    let now = async || match Register::exchange(&here, &key(), None).await {
        Ok(Exchanged::Found(found)) => found.now,
        other => panic!("{other:?}"),
    };
    sleep(Duration::from_secs(3)).await;
    assert_eq!(now().await, EPOCH + Duration::from_secs(3));
    place.set_time(EPOCH);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(now().await, EPOCH + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn hints_go_to_those_who_listen() {
    let place = place();
    let (one, other) = (place.join(TIMEOUT, 1), place.join(TIMEOUT, 2));
    let mut hints = one.hints().unwrap();
    assert_eq!(next(&mut hints).await, "missed");
    exchanged(&other, Some(write(None, 1))).await.unwrap();
    one.listen(&key());
    assert_eq!(next(&mut hints).await, "");
    exchanged(&other, Some(write(Some(1), 2))).await.unwrap();
    assert_eq!(next(&mut hints).await, "2");
    // Its own come as well.
    exchanged(&one, Some(write(Some(2), 3))).await.unwrap();
    assert_eq!(next(&mut hints).await, "3");

    one.set_line(Line {
        hint_lost: 1.0,
        ..Line::default()
    });
    exchanged(&other, Some(write(Some(3), 4))).await.unwrap();
    assert_eq!(next(&mut hints).await, "silence");
    one.set_line(Line::default());
    one.forget(&key());
    exchanged(&other, Some(write(Some(4), 5))).await.unwrap();
    assert_eq!(next(&mut hints).await, "silence");
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_times_out_and_only_an_answer_that_is_lost_leaves_a_trace() {
    let place = place();
    let here = place.join(TIMEOUT, 1);
    let begun = Instant::now();
    for (line, trace) in [
        (
            Line {
                lost: 1.0,
                ..Line::default()
            },
            None,
        ),
        (
            Line {
                answer_lost: 1.0,
                ..Line::default()
            },
            Some(1),
        ),
    ] {
        here.set_line(line);
        let lost = exchanged(&here, Some(write(None, 1))).await;
        assert_eq!(lost, Err("timeout".into()));
        assert_eq!(there(&place), trace);
    }
    assert_eq!(begun.elapsed(), TIMEOUT * 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_late_arrives_all_the_same_and_what_is_repeated_does_no_harm() {
    let place = place();
    let here = place.join(TIMEOUT, 1);
    let ms = Duration::from_millis;
    here.set_line(Line {
        delay: ms(10)..=ms(10),
        repeated: 1.0,
        ..Line::default()
    });
    let begun = Instant::now();
    assert_eq!(exchanged(&here, Some(write(None, 1))).await, Ok("written"));
    assert_eq!(begun.elapsed(), ms(20));
    assert_eq!(
        exchanged(&here, Some(write(Some(1), 2))).await,
        Ok("written")
    );
    sleep(ms(100)).await;
    assert_eq!(there(&place), Some(2));

    here.set_line(Line {
        delay: ms(80)..=ms(80),
        ..Line::default()
    });
    assert_eq!(
        exchanged(&here, Some(write(Some(2), 3))).await,
        Err("timeout".into())
    );
    assert_eq!(there(&place), Some(2));
    sleep(ms(40)).await;
    assert_eq!(there(&place), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_cut_line_fails_at_once_until_it_is_mended() {
    let place = place();
    let here = place.join(TIMEOUT, 1);
    let mut hints = here.hints().unwrap();
    assert_eq!(next(&mut hints).await, "missed");
    here.cut();
    let begun = Instant::now();
    assert_eq!(exchanged(&here, None).await, Err("down".into()));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(matches!(&*here.link().borrow(), Link::Down(_)));
    here.mend();
    assert_eq!(next(&mut hints).await, "missed");
    assert_eq!(exchanged(&here, None).await, Ok("nothing"));

    // One that was under way breaks.
    here.set_line(Line {
        delay: TIMEOUT / 10..=TIMEOUT / 10,
        ..Line::default()
    });
    let cutting = async { here.cut() };
    let (broken, ()) = tokio::join!(exchanged(&here, None), cutting);
    assert_eq!(broken, Err("broken".into()));
}

#[tokio::test(start_paused = true)]
async fn three_timeouts_in_a_row_end_the_connection_for_a_moment() {
    let place = place();
    let here = place.join(TIMEOUT, 1);
    let lossy = || Line {
        lost: 1.0,
        ..Line::default()
    };
    for _ in 0..2 {
        here.set_line(lossy());
        for _ in 0..2 {
            assert_eq!(exchanged(&here, None).await, Err("timeout".into()));
        }
        here.set_line(Line::default());
        assert_eq!(exchanged(&here, None).await, Ok("nothing"));
    }
    here.set_line(lossy());
    for _ in 0..3 {
        assert_eq!(exchanged(&here, None).await, Err("timeout".into()));
    }
    assert_eq!(exchanged(&here, None).await, Err("down".into()));
    here.set_line(Line::default());
    let mut link = here.link();
    link.wait_for(|link| matches!(link, Link::Up))
        .await
        .unwrap();
    assert_eq!(exchanged(&here, None).await, Ok("nothing"));
}

#[tokio::test(start_paused = true)]
async fn values_may_be_flushed_or_rolled_back() {
    let place = place();
    let here = place.join(TIMEOUT, 1);
    exchanged(&here, Some(write(None, 1))).await.unwrap();
    let saved = place.save();
    exchanged(&here, Some(write(Some(1), 2))).await.unwrap();
    place.roll_back(saved);
    assert_eq!(
        exchanged(&here, Some(write(Some(2), 3))).await,
        Err("1".into())
    );
    place.flush();
    assert_eq!(exchanged(&here, None).await, Ok("nothing"));
}
