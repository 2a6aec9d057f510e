//! Tests with events about lanes and pods that do not exist. The scheduler ignores the events that may be
//! late, and panics at the others.

use nanofaas_core::event::{Event, LanePlan, Order, StartFailure};
use nanofaas_core::ticket::LaneId;

use crate::plane::{LANE, SteppedScheduler, warm};

#[test]
fn late_events_of_a_gone_pod_change_nothing() {
    let mut plane = SteppedScheduler::with(warm(1, 1));
    let pod = plane.started()[0];
    plane.on_event(Event::LaneRemoved { lane: LANE });
    plane.down(&[pod]);
    let gone = [Order::Stop { pod }, Order::LaneGone { lane: LANE }];
    assert_eq!(plane.orders(), gone);
    let failure = StartFailure {
        permanent: false,
        message: "too late".into(),
    };
    let why = failure.message.clone();
    for event in [
        Event::PodUp(pod),
        Event::PodDown(pod),
        Event::PodLeaving(pod),
        Event::StartFailed { pod, failure },
        Event::StartHeldUp {
            pod,
            why: Some(why),
        },
    ] {
        plane.on_event(event);
    }
    assert!(plane.orders().is_empty() && plane.notices().is_empty());
}

fn changed(lane: LaneId, plan: LanePlan) -> Event {
    Event::LaneChanged {
        lane,
        plan,
        reshaped: false,
    }
}

#[test]
#[should_panic(expected = "a lane is changed while it is open")]
fn a_lane_that_is_gone_is_not_changed() {
    let mut plane = SteppedScheduler::with(warm(1, 0));
    plane.on_event(Event::LaneRemoved { lane: LANE });
    assert_eq!(plane.orders(), [Order::LaneGone { lane: LANE }]);
    plane.on_event(changed(LANE, warm(2, 0)));
}

#[test]
#[should_panic(expected = "a lane is changed while it is open")]
fn an_earlier_registration_changes_no_namesake() {
    let mut plane = SteppedScheduler::with(warm(1, 0));
    plane.on_event(Event::LaneRemoved { lane: LANE });
    plane.open(0, warm(1, 0));
    plane.on_event(changed(LANE, warm(2, 0)));
}
