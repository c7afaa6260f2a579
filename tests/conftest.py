"""What every test may rely on."""

import signal

# What is started in the background (a CI's job, say) ignores SIGINT, and so would all that tests start from
# here: nobody could press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
