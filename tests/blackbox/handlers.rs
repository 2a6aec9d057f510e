//! This module has the Python functions that tests register: correct ones and faulty ones.

pub(crate) const PID: &str = "
import os
def handle(input):
    return os.getpid()
";

/// Returns the pids of the process that answers and of its watchdog.
pub(crate) const PIDS: &str = "
import os
def handle(input):
    return [os.getpid(), os.getppid()]
";

pub(crate) const WARNS: &str = "
import logging
def handle(input):
    logging.warning(input)
";

pub(crate) const ECHO: &str = "
def handle(input):
    return input
";

/// Sleeps for so long that concurrent calls need more pods.
pub(crate) const SLOW_PID: &str = "
import os, time
def handle(input):
    time.sleep(0.3)
    return os.getpid()
";

pub(crate) const LOADS_ONCE: &str = "
open('started', 'a').write('x')
def handle(input):
    return 1
";

pub(crate) const ENVIRONMENT: &str = "
import os
def handle(input):
    return [dict(os.environ), os.getcwd()]
";

/// Writes to a file which exception stopped the handler.
pub(crate) const STOPPED: &str = "
import time
def handle(input):
    try:
        open('began', 'w').write('x')
        time.sleep(30)
    except BaseException as reason:
        open('stopped', 'w').write(type(reason).__name__)
        raise
";

/// Does the same as `STOPPED` in a coroutine, which has no thread of its own. The input 1 makes it return at
/// once.
pub(crate) const STOPPED_ASYNC: &str = "
import asyncio
async def handle(input):
    if input == 1:
        return 1
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        open('stopped', 'w').write('CancelledError')
        raise
";

/// Runs for `input` seconds and ignores every attempt to stop it.
pub(crate) const STUBBORN: &str = "
import os, time
def handle(input):
    end = time.monotonic() + input
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
    return os.getpid()
";

pub(crate) const VERSION: &str = "
import os
def handle(input):
    return [os.getpid(), os.environ['V']]
";

pub(crate) const TAKES_ITS_TIME: &str = "
import os, time
def handle(input):
    open('began', 'w').write('x')
    time.sleep(0.5)
    return os.getpid()
";

pub(crate) const TALKS: &str = "
import sys
def handle(input):
    print('said-on-stdout', flush=True)
    print('said-on-stderr', file=sys.stderr, flush=True)
    return 1
";

pub(crate) const NAN: &str = "
def handle(input):
    return {'a': [1, float('nan')]}
";

/// Returns the data that a Job gets about its call.
pub(crate) const JOB: &str = "
import os
def handle(input, context):
    return [os.getpid(), input, context.attempt, context.metadata]
";

/// Returns the length of a text, and any other input unchanged.
pub(crate) const LENGTH: &str = "
def handle(input):
    return len(input) if isinstance(input, str) else input
";

pub(crate) const RAISES: &str = "
def handle(input):
    raise ValueError('not that')
";

/// In the first call, writes a file that is named by its pid, so that a test can kill the process.
pub(crate) const TO_BE_KILLED: &str = "
import os, time
told = False
def handle(input):
    global told
    if not told:
        open('pids/%d' % os.getpid(), 'w').close()
        told = True
    time.sleep(0.005)
    return input
";

pub(crate) const FAMILY: &str = "
import os, subprocess
child = subprocess.Popen(['sh', '-c', 'sleep 600 & echo $! > grandchild; wait'])
def handle(input):
    return [os.getpid(), os.getppid(), child.pid]
";

/// Ends in the way that `input` names. Each run appends a mark to a file.
pub(crate) const DIES: &str = "
import os, signal
def handle(input):
    with open('runs', 'a') as runs:
        runs.write('x')
    if input == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    if input == 'exit':
        os._exit(3)
    return input
";

/// Returns the URL at which the runtime of the handler reports that it is ready.
pub(crate) const READY_URL: &str = "
import os
def handle(input):
    return os.environ['NANOFAAS_READY_URL']
";

/// A program, not a handler. It answers the first `input` attempts of a call with POD_LOST, as a pod does
/// whose worker is lost. It answers later attempts with its pid.
pub(crate) const TELLS_OF_ITS_WORKER: &str = "
import http.server, json, os, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *what):
        pass
    def do_GET(self):
        self.answer(200, {})
    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers['content-length'])))
        with open('runs', 'a') as runs:
            runs.write('x')
        if int(self.headers['x-dispatch-attempt']) <= call['input']:
            said = {'code': 'POD_LOST', 'message': 'the worker exited with status 3'}
            self.answer(500, said)
        else:
            self.answer(200, os.getpid())
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
socketserver.ThreadingUnixStreamServer(os.environ['NANOFAAS_SOCKET'], Handler).serve_forever()
";
