//! Tests when tasks run: after a yield, after a spawn, and when a timer fires, even while clients flood the
//! loop. Also tests that a waker on another thread stops the process.

use super::*;

#[test]
fn endless_yields_let_the_kernel_in() {
    both(|event_loop| {
        let (socket, mut theirs) = pair(&event_loop);
        let own = event_loop.clone();
        run(&event_loop, async move {
            let over = Rc::new(Cell::new(false));
            for _ in 0..8 {
                let (yielding, over) = (own.clone(), over.clone());
                own.spawn(async move {
                    while !over.get() {
                        yielding.yield_now().await;
                    }
                });
            }
            // After the yield, the byte comes while the other tasks run.
            own.yield_now().await;
            theirs.write_all(b"x").unwrap();
            assert_eq!(receive(&socket, SMALL).await, b"x");
            over.set(true);
        });
    });
}

#[test]
fn a_yield_resumes_after_a_look_at_sockets() {
    both(|event_loop| {
        let (socket, mut theirs) = pair(&event_loop);
        let own = event_loop.clone();
        run(&event_loop, async move {
            assert!(look_once(&socket).await.is_pending());
            own.yield_now().await;
            theirs.write_all(b"x").unwrap();
            own.yield_now().await;
            let Poll::Ready(came) = look_once(&socket).await else {
                panic!("it came before the loop looked");
            };
            assert_eq!(came.unwrap(), b"x");
        });
    });
}

#[test]
fn a_timer_fires_while_clients_flood() {
    // The flood lasts until the timer fires. A timer that does not fire fails the test after `PATIENCE`.
    both(|event_loop| {
        let over = Arc::new(AtomicBool::new(false));
        let (peers, clients): (Vec<_>, Vec<_>) = (0..8)
            .map(|_| {
                let (socket, mut theirs) = pair(&event_loop);
                let over = over.clone();
                let client = std::thread::spawn(move || {
                    let mut reader = theirs.try_clone().unwrap();
                    let reading = std::thread::spawn(move || {
                        let mut taken = 0;
                        while let Ok(count @ 1..) = reader.read(&mut [0; 65536]) {
                            taken += count;
                        }
                        taken
                    });
                    while !over.load(Ordering::Relaxed) {
                        theirs.write_all(&[7; 65536]).unwrap();
                    }
                    theirs.shutdown(Shutdown::Write).unwrap();
                    reading.join().unwrap()
                });
                (socket, client)
            })
            .unzip();
        let (own, is_over) = (event_loop.clone(), over.clone());
        run(&event_loop, async move {
            let left = Rc::new(Cell::new(peers.len()));
            for socket in peers {
                let (echoing, left) = (own.clone(), left.clone());
                own.spawn(async move {
                    echo(&echoing, &socket).await;
                    left.set(left.get() - 1);
                });
            }
            let timer = Timer::new(&own).unwrap();
            for _ in 0..3 {
                timer.set(Duration::from_millis(20));
                poll_fn(|cx| timer.poll(cx)).await;
            }
            is_over.store(true, Ordering::Relaxed);
            while left.get() > 0 {
                own.yield_now().await;
            }
        });
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
}

/// Echoes the received bytes until the end, like a connection whose client sends requests before it has read
/// the answers.
async fn echo(event_loop: &EventLoop, socket: &Socket) {
    loop {
        let bytes = receive(socket, 64 * 1024).await;
        if bytes.is_empty() {
            return socket.shutdown(Shutdown::Write);
        }
        if !socket.post(bytes) {
            poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
        }
        event_loop.yield_now().await;
    }
}

#[test]
fn a_task_spawns_and_its_place_is_reused() {
    both(|event_loop| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (own, all) = (event_loop.clone(), seen.clone());
        run(&event_loop, async move {
            for round in 0..100 {
                let done = Rc::new(Cell::new(false));
                let (noted, ended) = (all.clone(), done.clone());
                own.spawn(async move {
                    noted.borrow_mut().push(round);
                    ended.set(true);
                });
                while !done.get() {
                    own.yield_now().await;
                }
            }
        });
        assert_eq!(*seen.borrow(), (0..100).collect::<Vec<_>>());
        if let EventLoop::Epoll(epoll) = &*event_loop {
            assert!(epoll.places() < 10);
        }
    });
}

#[test]
fn a_timer_wakes_at_its_latest_setting() {
    both(|event_loop| {
        let timer = Timer::new(&event_loop).unwrap();
        run(&event_loop, async move {
            let began = Instant::now();
            timer.set(Duration::from_secs(3600));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            timer.set(Duration::from_millis(30));
            poll_fn(|cx| timer.poll(cx)).await;
            assert!(began.elapsed() >= Duration::from_millis(30));
            timer.set(Duration::from_millis(30));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            poll_fn(|cx| timer.poll(cx)).await;
            assert!(began.elapsed() >= Duration::from_millis(60));
        });
    });
}

#[test]
fn a_waker_of_another_thread_stops_the_process() {
    both(|event_loop| {
        let waker = Arc::new(Mutex::new(None));
        let (own, kept) = (event_loop.clone(), waker.clone());
        run(&event_loop, async move {
            own.spawn(poll_fn(move |cx| {
                *kept.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            }));
            own.yield_now().await;
        });
        let waker = waker.lock().unwrap().take().expect("the task ran");
        let elsewhere = std::thread::spawn(move || waker.wake());
        assert!(elsewhere.join().is_err());
    });
}
