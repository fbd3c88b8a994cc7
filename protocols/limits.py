"""Every limit of the protocols, its unit in its name and its reason beside it."""

from __future__ import annotations

from typing import Final

# Frames and streams
MAX_FRAME_BYTES: Final = (
    1 << 20
)  # py-libp2p's own read helpers give up past about 6.8 MB; 1 MiB bounds memory a stream
BULK_CHUNK_BYTES: Final = (
    64 << 10
)  # 1 MiB pieces raise a small job's p99 from 3 to 26 ms on one connection
MAX_MESSAGES_PER_FRAME: Final = (
    4_096  # a frame full of the smallest messages decodes in a few milliseconds
)
MAX_FRAME_ITEMS: Final = 65_536  # 4,096 messages of 16 fields; a hostile frame then costs 5 MB
MAX_MESSAGE_MAP_ENTRIES: Final = 256  # our maps name a dozen things; colliding keys are quadratic
MAX_MESSAGE_DEPTH: Final = (
    8  # our messages nest three deep; cbor2's own default of 400 invites abuse
)

# Records and bundles
MAX_RECORD_BYTES: Final = (
    64 << 10
)  # a record is a statement; larger content is a blob named by its CID
MAX_CBOR_DEPTH: Final = 32  # cbor2's encoder overflows the C stack near depth 20,000
MAX_CBOR_ITEMS: Final = 20_000  # flat containers cost 73 bytes of memory a byte of input
MAX_CBOR_CONTAINERS: Final = (
    2_560  # lists, maps and links: 1,024 chats of one message, or 1,270 links with their roles
)
MAX_BUNDLE_RECORDS: Final = 64  # one signature over 64 records costs 3.2 µs a record
MAX_BUNDLE_BYTES: Final = (
    256 << 10
)  # 64 KiB of records closes a bundle; one last record may still be 64 KiB

# Transport
STREAM_WINDOW_BYTES: Final = 256 << 10  # yamux's initial window: what one stalled stream may hold
MAX_STREAMS_PER_PEER: Final = (
    64  # 64 windows are 16 MiB a peer; one session stream is the normal case
)
MAX_STREAMS_BEFORE_HELLO: Final = 8  # a stranger needs one for hello and one for join
MAX_CONNECTIONS: Final = (
    512  # py-libp2p's default of 1,000 exceeds the usual limit of 1,024 open files
)
MAX_HANDSHAKES: Final = 64  # strangers in the middle of one, each for DIAL_TIMEOUT_S at most
MAX_CONNECTIONS_PER_PEER: Final = 4  # two dials that cross make two; the rest is slack
MAX_CONTROL_BYTES: Final = (
    64 << 10
)  # answers (pings, credit) owed to a peer that does not read them
DIAL_TIMEOUT_S: Final = (
    5.0  # an address; TCP and Noise take 20 ms on a LAN, 1 s on bad mobile links
)
OPEN_STREAM_TIMEOUT_S: Final = 5.0  # one round trip, and the other side's ADMISSION_WAIT_S
ADMISSION_WAIT_S: Final = (
    2.0  # a peer learns of its admission before or after our side has admitted it
)
SEND_STALL_S: Final = 30.0  # no credit from a live reader; py-libp2p's own 5 s punish a slow fsync
WRITE_STALL_S: Final = 10.0  # one batch of at most 64 KiB that the kernel does not take
PING_INTERVAL_S: Final = 1.25  # a silent connection is asked this often; 12 bytes a ping
PEER_SILENCE_S: Final = 4.0  # a frozen peer must be noticed within 5 s; three pings go unanswered
MAX_GOSSIP_BYTES: Final = 64 << 10  # past 1 MiB py-libp2p drops silently; hints are small
MAX_GOSSIP_IN_PER_S: Final = 50  # of one neighbour, who passes on what others sent
MAX_GOSSIP_PER_S: Final = (
    10  # messages of our own; a delivery costs 5-10 ms CPU, loss begins at 20/s
)

# Membership, adverts and finding each other
CERTIFICATE_DAYS: Final = 30  # long enough for a laptop's holiday, short enough to bound a lost key
CLOCK_TOLERANCE_S: Final = 600  # machines without NTP are minutes off, not hours
MAX_CLOCK_APART_S: Final = 3_600  # certificates bear minutes; an hour is a wrong zone or battery
MAX_CERTIFICATE_BYTES: Final = 2 << 10  # eight roles and a few limits need about 300 bytes
MAX_MEMBERSHIP_BYTES: Final = 16 << 10  # two certificates and sixteen of the longest addresses
RENEW_CHECK_S: Final = 600.0  # two weeks are left when renewing begins: no hurry, no crowd
RENEW_FIRST_S: Final = 30.0  # after a start: neighbours have been met by then
RENEW_WARN_S: Final = 5 * 86_400  # what is left of a certificate when a person should look
MAX_REVOKED: Final = 1_400  # at 44 bytes each 62 KB, so that the whole list is one gossip message
MAX_REVOCATIONS_BYTES: Final = MAX_GOSSIP_BYTES
REVOCATION_REPEAT_S: Final = 1.0  # gossip may lose a message without a word: say it twice
MEMBERS_CHECK_S: Final = 60.0  # how often connections are looked at whose certificate has expired
MAX_ROLES: Final = 16  # a role more than twice the number we know is a mistake
MAX_CERTIFICATE_LIMITS: Final = 16  # a certificate is shown in every hello and every advert
MAX_ADDRESSES: Final = 16  # each is dialled in turn; a host has a handful of interfaces
MAX_ADDRESS_CHARS: Final = 256  # the longest multiaddr with a DNS name is about 330, ours about 90
MAX_TICKET_CHARS: Final = 8 << 10  # sixteen of the longest addresses in base32 are 6.6 KB
MAX_TICKET_TTL_S: Final = 30 * 86_400  # a bearer secret may not outlive the certificate it buys
MAX_TICKETS: Final = 16_384  # remembered at once; a large mesh is set up in one day
TICKET_MEMORY_S: Final = (
    86_400  # after its end a ticket is still called expired or used, not unknown
)
MAX_TICKET_GUESSES: Final = 5  # a person pastes wrongly once or twice
TICKET_GUESS_WINDOW_S: Final = 60  # what MAX_TICKET_GUESSES counts over
MAX_ADVERT_BYTES: Final = 8 << 10  # two certificates, the hardware and 50 models need 6 KB
MAX_ADVERT_MODELS: Final = 64  # more do not fit into an advert, and a frame bounds decoding
ADVERT_LIFETIME_S: Final = 30 * 60  # three missed republications and a peer is forgotten
ADVERT_PERIOD_S: Final = 10 * 60  # 10,000 peers then send 17 adverts a second in all
ADVERT_OVERDUE_S: Final = 12 * 60  # the next one had two minutes to come by way of others
ADVERT_GAP_S: Final = 1  # changes in a burst become one advert
ADVERTS_PER_S_PER_PEER: Final = 20  # what one neighbour may hand us before we look no closer
MAX_DIRECTORY_PEERS: Final = 16_384  # ten thousand peers are the design's largest mesh; 1 KB each
HELLO_PAGE_BYTES: Final = 256 << 10  # a quarter of a frame, so that jobs pass between two pages
MAX_HELLO_PAGES: Final = 512  # MAX_DIRECTORY_PEERS adverts of MAX_ADVERT_BYTES, 32 a page
HELLO_TIMEOUT_S: Final = 10.0  # one round trip and four signature checks on a busy machine
HELLO_END_TIMEOUT_S: Final = 30.0  # ten thousand adverts are verified in about five seconds
STRANGER_GRACE_S: Final = 30.0  # a connection without hello: a join takes JOIN_TIMEOUT_S
STRANGER_PERIOD_S: Final = 5.0  # how often such connections are looked for
MAX_BOOT_LEAP: Final = 1 << 20  # no peer starts a million times between two meetings
JOIN_TIMEOUT_S: Final = 20.0  # the admitter fsyncs before it answers
MAX_NEIGHBOURS: Final = (
    64  # connections that we seek; sessions are limited to as many; gossip needs six
)
MAX_PARALLEL_DIALS: Final = 8  # a noise handshake costs milliseconds on both sides
DIAL_BACKOFF_S: Final = 1.0  # doubled after each failure
DIAL_BACKOFF_MAX_S: Final = 60.0  # a partition that heals is noticed within a minute
MAX_DIAL_CANDIDATES: Final = 16_384  # as many as the directory may name

# Error reports
MAX_REPORT_BYTES: Final = (
    16 << 10
)  # a report rides in a record beside others; 16 KiB holds 100 ordinary frames
MAX_REPORT_CHAIN: Final = 6  # past six wrappings the outermost and the last five say all there is
MAX_REPORT_FRAMES: Final = 100  # 50 outer tell how it was called, 50 inner where it broke
MAX_REPORT_MESSAGE_CHARS: Final = 2_000  # the longest real ones (torch, DuckDB) are about 1,500
MAX_REPORT_NAME_CHARS: Final = 128  # of a type, module, function, component, release or model
MAX_REPORT_TAGS: Final = 8  # tags are for filtering; text belongs in the message
MAX_REPORT_GROUP_LEAVES: Final = (
    8  # an ExceptionGroup of a whole nursery would else be one report a child
)
MAX_TEMPLATE_CHARS: Final = 400  # of a message's first line; what differs later is data

# Storms of reports, at the peer that has them
STORM_FULL_REPORTS: Final = 5  # five samples show whether the inputs matter; the rest is a count
STORM_COUNT_INTERVAL_S: Final = 60.0  # one count a minute is plenty for a graph and for filing
STORM_QUIET_S: Final = 3_600.0  # a fault that rested an hour and returns deserves full reports
STORM_FINGERPRINTS_MAX: Final = 1_000  # about 2 MB of memory at an ordinary report's size
STORM_NEW_FINGERPRINTS_MAX: Final = 100  # new ones a window; more are noise in the message itself
STORM_NEW_WINDOW_S: Final = 300.0

# Groups of reports
MAX_GROUP_TEMPLATES: Final = 8  # up to here one place's messages are one fault (B³ F1 .894 on
# Defects4J); past it they are many faults raised at one place

# Verification
MAX_VERIFICATIONS: Final = (
    4  # other peers a job: each costs as much as the job; five outputs in memory
)
MAX_TOLERANCES: Final = 8  # of a model, one a precision; no model has as many
MAX_TOLERANCE: Final = 1e6  # a difference above that is none that anybody declares
MAX_TOLD_CHARS: Final = 256  # of a peer's reason within a record: a sentence

# Jobs and sessions
MAX_SESSIONS: Final = 64  # a dial costs 12 CPU-ms and 58 KB; past this many, idle sessions rotate
MAX_INBOUND_SESSIONS: Final = 2  # of one peer: one that it uses, and one that it gave up just now
MAX_SESSION_QUEUE: Final = 4_096  # messages waiting for one peer: past it, that peer does not read
MAX_SESSION_QUEUE_BYTES: Final = (
    MAX_SESSION_QUEUE * 4 << 10
)  # an inline piece in each; larger ones are paced
MAX_SESSION_BATCH: Final = 128  # messages a frame: 1 to 5 KB at most, 100 bytes in the usual case
MAX_QUEUED_PIECES: Final = 16  # pieces of content waiting in one session, of all its jobs: 1 MiB
MAX_INLINE_PIECE_BYTES: Final = 4 << 10  # content this small rides with the other messages
MAX_JOB_INPUT_BYTES: Final = 64 << 20  # held in memory by submitter, worker and runner at once
MAX_JOB_OUTPUT_BYTES: Final = 128 << 20  # 87,000 MiniLM embeddings; more is several jobs
MAX_NAME_CHARS: Final = 256  # a model's name with its organisation and revision
MAX_CODE_CHARS: Final = 48  # refusal and failure codes are words joined by hyphens
MAX_REASON_CHARS: Final = 1_024  # a sentence or two for a person
MAX_FACTS: Final = 24  # entries of a message's free-form map; a run's profile has about ten
MAX_FACT_CHARS: Final = 96  # a device's or an engine's name
MAX_FENCE: Final = 1 << 53  # exact in every language's numbers
MAX_ITEMS: Final = 1 << 31  # counts of sentences or tokens
MAX_BUDGET_MS: Final = 24 * 3_600_000  # a job that needs more than a day should be several
OFFER_ANSWER_S: Final = 7.0  # DIAL_TIMEOUT_S to reach the worker, and 2 s for it to decide
RUN_SILENCE_S: Final = 0.1  # a job that runs at once and is done by then says so by its result
LEASE_CHOICE_S: Final = 0.25  # after the first lease, what a better one may cost in waiting
LEASE_ACCEPT_S: Final = 2.0  # an unaccepted lease holds room that other submitters could use
LEASE_TTL_S: Final = 15.0  # three missed renewals
PROGRESS_S: Final = 0.5  # a person watching a terminal wants no more
LEASE_RENEW_S: Final = 5.0  # a third of LEASE_TTL_S: one lost renewal is not a lost job
STALL_S_MIN: Final = 30.0  # without progress: a stop-the-world or a neighbour's burst is shorter
STALL_ESTIMATES: Final = 3.0  # times the lease's estimate; shared runners are off by two at most
FIRST_PROGRESS_S: Final = 120.0  # of a worker without an estimate: as long as a model may load
INPUT_BYTES_PER_S_MIN: Final = 128 << 10  # 1 Mbit/s, a poor uplink: input on its way is no stall
ORPHAN_S: Final = 30.0  # a submitter that comes back within it finds its job running
DRAIN_S: Final = 30.0  # what systemd grants a service by default is 90 s
MAX_ATTEMPTS: Final = 3  # a job that kills three workers is not tried on a fourth
MAX_FENCE_JUMPS: Final = 3  # rounds that workers may void by having seen later fences
MAX_FENCE_RISE: Final = 1 << 20  # by each of them: a day of submissions every second is 86,400
MAX_FENCE_TOLD: Final = 1 << 40  # above ours: it takes a million such rises, so it is a lie
BUSY_RETRY_S_MAX: Final = 5.0  # everyone is busy: ask again at least this often within the budget
BUSY_RETRY_S_MIN: Final = 0.1  # and no more often than this
MAX_QUEUE_S: Final = 1.0  # estimated wait past which a worker refuses: p99 1.45x an oracle's
MAX_WORKER_JOBS: Final = 1_024  # leased or running on one worker at once
MAX_JOBS_PER_SUBMITTER: Final = 256  # of them for one submitter
MAX_WORKER_INPUT_BYTES: Final = 512 << 20  # of unfinished jobs; a laptop of 8 GB must go on working
MAX_SUBMITTER_INPUT_BYTES: Final = 2 * MAX_JOB_INPUT_BYTES  # of one's: one runs, the next comes in
MAX_STRAY_RESULTS: Final = 256  # of a worker, recorded: what it had in hand when we crashed
MAX_HISTORY_STEPS: Final = 256  # of one job; three attempts among a dozen workers take fifty
MAX_SUBMITTER_JOBS: Final = 4_096  # of one node at once; each holds its input in memory
OUTCOME_KEEP_S: Final = 3_600.0  # an outcome that nobody acknowledged
MAX_OUTCOME_BYTES: Final = 256 << 20  # of all kept outcomes of a worker; who has most loses first
MAX_PARTIAL_INPUT_BYTES: Final = 2 * MAX_JOB_INPUT_BYTES  # of inputs whose session was lost
MAX_KEPT_OUTCOMES: Final = 4_096  # a submitter's MAX_SUBMITTER_JOBS; looked through at each offer
MAX_ACCEPTED_JOBS: Final = (
    65_536  # that a retried job id finds; 300 bytes each, and a day of one job a second
)
MAX_OBSERVED: Final = 4_096  # pairs of a peer and a model that a submitter remembers; 0.2 KB each
MAX_CONSIDERED: Final = 64  # candidates of one job; a round that widens past thirty is a full mesh
MAX_POOLS: Final = 16  # kinds of jobs whose candidates are kept ready; 1 MB each at 10,000 peers
OBSERVATION_FADE_S: Final = 600.0  # a laptop gets hot, or plugged in, within minutes
RETRY_SHARE: Final = 0.1  # of the jobs: past it, retries make an overload worse
RETRY_BURST: Final = 20.0  # what a busy hour may save up for a bad minute
RETRY_FLOOR: Final = MAX_ATTEMPTS - 1  # a lone job may use all of its attempts
RETRY_REGAIN_S: Final = 10.0  # for one retry of the floor: a quiet submitter always has some
BREAKER_FAILURES: Final = 3  # in a row: one may be the job's own, three are the peer's
BREAKER_OPEN_S_MIN: Final = 5.0  # a restart takes about as long
BREAKER_OPEN_S_MAX: Final = 300.0  # a machine that was repaired is found again within minutes
BREAKER_TRIAL_S: Final = OFFER_ANSWER_S + 3.0  # for the one job of a half-open breaker to tell
MAX_SALTS: Final = 16_384  # (digest, salt) pairs remembered; 100 bytes each

# Record core: journal, feeds and their exchange
MAX_ROLE_CHARS: Final = 64  # kinds, roles and statuses are words of a vocabulary, not text
MAX_NONCE_BYTES: Final = 32  # 8 random bytes already tell one author's records apart
CUT_BUNDLE_RECORDS: Final = MAX_BUNDLE_RECORDS  # a full bundle is cut at once
CUT_BUNDLE_BYTES: Final = 64 << 10  # fits a gossip message and is past zstd's sweet spot
CUT_AFTER_S: Final = 10.0  # how old a record may grow before others can see it
CUT_REPORT_AFTER_S: Final = 0.25  # a fault should reach the operator while it happens
MAX_EPOCH: Final = 1 << 48  # epochs start at seconds since 1970; the rest is room above them
MAX_EPOCH_LEAP_S: Final = 365 * 86_400  # a clock is rarely a year off; a liar gains one a restart
MAX_SEQUENCE: Final = (1 << 63) - 1  # fits the signed 64-bit column of every store
MAX_ENTRY_BYTES: Final = 1 << 20  # a journal entry holds at most one bundle
MAX_JOURNAL_BACKLOG_BYTES: Final = (
    16 << 20
)  # what may wait for one fsync before writers are refused
MAX_HELD_PER_MESSAGE: Final = 250  # with all their ranges 850 KB, inside a frame
MAX_HELD_RANGES: Final = 64  # more islands of one feed are not told: duplicates are cheap
MAX_FEEDS: Final = 100_000  # heads in memory: about 50 MB; a mesh has a thousand peers
MAX_INVENTORY: Final = 8_192  # headers a message: about 350 KB, well inside a frame
MAX_HELD_PARTS: Final = 400_000  # ranges told on one stream, in all: past it one a feed's epoch
MAX_TOMBSTONE_RECORDS: Final = 256  # named by one tombstone; more are several, each with a reason
MAX_REDACTIONS_OF_AUTHOR: Final = 131_072  # named in all: 63 MB, 116 with a tombstone for each
MAX_REDACTION_REASON_CHARS: Final = 500  # a sentence or two: it stays when the body is gone
MAX_ERASED_AT_ONCE: Final = 4_096  # noted in one journal entry, with 36 bytes each: 150 KB
MAX_ERASED_TOGETHER: Final = 65_536  # before the index is written anew: 10 MB of names meanwhile
ERASING_SHARE: Final = 3.0  # of the time, what erases is at work a third: others want the index
ERASING_PAUSE_S_MAX: Final = 30.0  # what came meanwhile goes together; its bytes do not wait longer
MAX_LOSSES_OF_AUTHOR: Final = 256  # statements that count: who lost more has no disk, but a habit
MAX_LOST_RECORDS: Final = 1 << 32  # of one statement: a year of a feed at 100 records a second
MAX_LOST_NAMED: Final = 64  # of one statement, as in a bundle; with the line above 16,384, 1.5 MB
MAX_CHECKPOINT_HEADS: Final = 512  # a block; of 103 bytes each at most, below MAX_RECORD_BYTES
MAX_VOUCHED_BLOCKS: Final = 16  # that name one feed's heads: 1,024 epochs of it fill three
MAX_VOUCHED_BYTES: Final = 4 << 20  # of what is kept of an aggregator: two checkpoints, 64 KiB each
MAX_WATCHED_AGGREGATORS: Final = 64  # whose checkpoints a node keeps; a mesh has a few
MAX_OWED_RANGES: Final = 512  # an aggregator is held to; kept twice, inside MAX_CBOR_CONTAINERS
MAX_TOLD_FAULTS: Final = 10  # of one checkpoint; the rest is a count: a report is read by people
CHECKPOINT_EVERY_S: Final = 3_600.0  # 9,000 a year; what is lost is known to within an hour
CHECKPOINT_FIRST_S: Final = 60.0  # after a start: neighbours have sent what they had
MAX_TOLD_BUNDLES: Final = (
    4_096  # tombstones that one puller may hand in on a stream: 256 MB at most
)
MAX_EPOCHS_PER_FEED: Final = 1_024  # a feed begins one after a loss; MAX_FEEDS is there for all
MAX_ABSENT_OF_FEED: Final = 16_384  # bodies that nobody redacted, 0.4 KB of memory each: 6.5 MB
MAX_ABSENT_BODIES: Final = 131_072  # of all feeds: 52 MB; a mesh that lacks so many lost its disks
MAX_QUESTIONS: Final = 8  # waiting at a server; our pullers wait for the answer to each
MAX_FETCHES: Final = 64  # lists of MAX_INVENTORY headers that a puller keeps to ask for: 50 MB
BUNDLES_PER_FRAME_BYTES: Final = 256 << 10  # larger frames delay what shares the connection
MAX_PULLS_PER_PEER: Final = 4  # following, its own dying stream, and people's questions
TIP_EVERY_S: Final = 30.0  # a silent server says that it lives
REFRESH_S: Final = 3.0  # a person waits for it; a peer on the LAN answers in milliseconds
PULL_SILENCE_S: Final = 90.0  # three missed tips: the stream is dead although the connection is not
SEND_WITHIN_S: Final = 30.0  # one frame of 1 MiB over a slow uplink
JOURNAL_COMPANY_S: Final = 0.05  # what need not be on the disk at once waits for what must
MAX_JOURNAL_BATCH_BYTES: Final = 4 << 20  # one fsync's worth; more only makes the first waiter wait
SEGMENT_BYTES: Final = 64 << 20  # erasing one record copies a segment: 0.3 s of a thread
MAX_FILLER_BYTES: Final = 1 << 30  # a filler's length has 32 bits; older journals are one file
RETENTION_CHECK_S: Final = 600.0  # days are kept; ten minutes of the fastest node are 1 GB
SWEEP_BUNDLES: Final = 8  # what a segment may still hold to be swept; less is not worth copying it
CUT_START_S: Final = 5.0  # after a restart neighbours get this long to say how far they saw us
CUT_RETRY_S: Final = 5.0  # after a full disk: often enough to recover unasked, rare enough to log
MAX_ACK_FEEDS: Final = 1_000  # with their keys 50 KB
MAX_ACK_BYTES: Final = 64 << 10
PULL_RETRY_S_MIN: Final = 1.0  # a lost stream on a living connection is usually a restart
PULL_RETRY_S_MAX: Final = 60.0  # a peer that fails again and again costs next to nothing
MAX_SOUGHT: Final = 64  # records of a question by name: at worst 64 bundles of 256 KiB in answer
MAX_SOUGHT_OF_WORKER: Final = 1_024  # at once: a bundle is verified for 64 of them, in 2 ms
SEEK_SPACING_S: Final = 1.0  # between two such questions of one peer: each looks through an index
SEEK_AFTER_S: Final = 1.0  # a job's record is asked for so long after it: many share a question
SEEK_RETRY_S_MIN: Final = 30.0  # for a record that nobody had; three times CUT_AFTER_S
SEEK_RETRY_S_MAX: Final = 3_600.0  # a machine that was off for a night is asked within the hour
MAX_SEEK_TRIES: Final = 16  # doubling from 30 s to an hour: half a day; then only a restart helps
SEEK_PEERS: Final = 8  # asked in one round; the next round asks others
MAX_DANGLING: Final = 16_384  # records that are sought at once; 0.3 KB each
AUTHOR_RECORDS_PER_S: Final = 6_000  # of one author beside others: a quarter of what a core merges
AUTHOR_BURST_RECORDS: Final = 2 * AUTHOR_RECORDS_PER_S  # what came while nobody looked: two seconds
BUNDLE_COST_RECORDS: Final = 4  # signature and fsync of a bundle cost what four records do
COMPANY_S: Final = 2.0  # an author is alone when no other brought anything for so long
MAX_PACED_AUTHORS: Final = 4_096  # remembered; who is forgotten has its whole burst again
RECENT_SOURCES: Final = 4_096  # 0.5 MB a peer; older bundles are not on their way back any more

# Runners and kinds
RUNNER_PIECE_BYTES: Final = (
    128 << 10
)  # inputs and outputs cross the runner's pipe in pieces, which others wait for: 0.1 ms each
MAX_RUNNER_JOBS: Final = 64  # jobs inside one runner; more wait outside, where they can be refused
QUANTUM_S: Final = 0.5  # of a submitter's turn at a runner; a dozen batches, half of MAX_QUEUE_S
MAX_RUNNERS: Final = 4  # warm runners of one node: each holds 250 MB and more
MAX_RUNNER_STDERR_BYTES: Final = 4 << 10  # the last words of a crashed runner that are kept
MAX_PARAMETERS_BYTES: Final = 16 << 10  # of one job: 256 labels of a few words each
MAX_PARAMETER_CHARS: Final = 1_024  # a label, a stop sequence or a grammar's name; not a document
MAX_EMBED_ITEMS: Final = 100_000  # 153 MB of output at 384 dimensions
MAX_EMBED_TEXT_BYTES: Final = 64 << 10  # models read 256 to 8,192 tokens; the rest would be cut off
MAX_EMBED_INPUT_BYTES: Final = 64 << 20  # what a submitter may make a worker hold for one job
MAX_KV_CACHE_BYTES: Final = 1 << 30  # keys and values of one runner: 23,000 tokens of SmolLM2
MAX_GENERATE_SEQUENCES: Final = 16  # written at once; past it a token of each costs twice as much
MAX_GENERATE_INSIDE: Final = MAX_GENERATE_SEQUENCES // 2  # jobs of one submitter, past its quantum
MAX_GENERATE_INPUT_BYTES: Final = 1 << 20  # 250,000 tokens, which take an hour to read on two cores
MAX_GENERATE_ITEMS: Final = 1_024  # prompts of a job; each may be written to its last token
MAX_GENERATE_PIECE_BYTES: Final = 256 << 10  # one part of a growing output, some tokens' text
MAX_CHAT_MESSAGES: Final = 512  # of one chat
MAX_NEW_TOKENS: Final = 32_768  # for one prompt; the model's own context is often shorter
PARTS_A_TOKEN: Final = 4  # an upstream may send its text in smaller parts than tokens
MAX_STOP_TEXTS: Final = 8  # OpenAI's interface allows four
MAX_STOP_CHARS: Final = 64  # held back from a stream while they may still come
MAX_TEMPERATURE: Final = 2.0  # as in OpenAI's interface; beyond it, text is noise
MAX_CLASSIFY_ITEMS: Final = 100_000  # with MAX_LABELS 102 MB of scores
MAX_LABELS: Final = 256  # told with each job; a taxonomy of more is several questions
MAX_VAD_ITEMS: Final = 1_000  # files of one job; what it may hold in all is its bytes
MAX_VAD_ITEM_BYTES: Final = 62 << 20  # half an hour of 16 kHz, beside a job's other bytes
MAX_DETECT_ITEMS: Final = 8_000  # of 8 KiB each: a job's 64 MiB
DETECT_END_BYTES: Final = 4 << 10  # of a file's beginning and end; magika looks at no more
MAX_PIPELINE_ITEMS: Final = 10_000  # each may come back as a few kilobytes of JSON
MAX_PIPELINE_ITEM_BYTES: Final = 64 << 10  # as MAX_EMBED_TEXT_BYTES
MAX_PIPELINE_RESULT_BYTES: Final = 4 << 20  # about one text: 8,192 labelled tokens are 1.3 MB
MAX_PIPELINE_RESULT_DEPTH: Final = 16  # tasks answer lists of objects of numbers: three or four
SESSION_OPEN_S: Final = 6.0  # DIAL_TIMEOUT_S, then a stream on the new connection

# Upstreams: servers that speak OpenAI's protocol, behind a node
UPSTREAM_CONNECT_S: Final = 5.0  # as DIAL_TIMEOUT_S: TCP and TLS within a data centre take 50 ms
UPSTREAM_LIST_S: Final = 10.0  # a list of names from a busy server
UPSTREAM_POLL_S: Final = 30.0  # a server that is gone is noticed by a job or within this
UPSTREAM_RETRY_S_MIN: Final = 1.0  # between two looks at one that is not there, doubled each time
UPSTREAM_RETRY_S_MAX: Final = 60.0  # a server that was repaired is found again within a minute
MAX_UPSTREAM_LIST_BYTES: Final = 4 << 20  # the largest public gateways list 400 models in 1 MB
MAX_UPSTREAM_MODELS: Final = 4_096  # looked at; what an advert has room for is offered
MAX_UPSTREAM_WHOLE_BYTES: Final = 16 << 20  # 32 embeddings of 8,192 numbers are 6 MB of JSON
MAX_UPSTREAM_STREAM_BYTES: Final = 64 << 20  # MAX_NEW_TOKENS events of 400 bytes are 13 MB
MAX_UPSTREAM_STREAM_LINES: Final = 1 << 19  # four a token, four tokens' worth; 0.2 s to read
MAX_UPSTREAM_EVENT_BYTES: Final = (
    128 << 10  # a token's event has 400 bytes; its text must fit into MAX_GENERATE_PIECE_BYTES
)
MAX_UPSTREAM_ERROR_BYTES: Final = 16 << 10  # of a refusal; a sentence of it is shown
UPSTREAM_EMBED_TEXTS: Final = 32  # of one request: what the strictest servers take by default
UPSTREAM_EMBED_BYTES: Final = 256 << 10  # of one request's texts, unless one alone is larger
MAX_ADVERT_OFFERS_BYTES: Final = 5 << 10  # of MAX_ADVERT_BYTES; certificates and hardware have 3

# Benchmarks
MAX_BENCH_INPUT_BYTES: Final = 2 << 10  # a dozen parameters, each a word and a number
MAX_BENCH_OUTPUT_BYTES: Final = 16 << 10  # MAX_BENCH_FIGURES of them, 150 bytes each
MAX_BENCH_FIGURES: Final = 64  # of one benchmark; a record holds them all
MAX_BENCH_SAMPLES: Final = 1_000  # of one figure: a p99 that ten samples lie beyond
MIN_BENCH_SAMPLES: Final = 5  # fewer have no quartiles worth the name
MAX_BENCH_FIGURE_S: Final = 30.0  # to measure one figure; longer only measures the weather
BENCH_OVERTIME: Final = 6.0  # times its seconds, after which a figure has what samples it has
MAX_BENCH_MATMUL_SIZE: Final = 2_048  # 17 GFLOP, seconds of one slow core
MAX_BENCH_COPY_MB: Final = 1_024  # held twice
MAX_BENCH_BATCHES: Final = 8
MAX_BENCH_BATCH: Final = 256
MAX_BENCH_WORDS: Final = 128  # of one text; models read 256 tokens and more
MAX_BENCH_TOKENS: Final = 256  # written for one text: 10 s of a 135M model on one core
MAX_BENCH_PINGS: Final = MAX_BENCH_SAMPLES
MAX_BENCH_ROUNDS: Final = 32  # of bulk data in each direction
MAX_BENCH_ROUND_MB: Final = 16  # 10 ms of CPU a megabyte at each side
MAX_ECHO_BYTES: Final = (MAX_BENCH_ROUNDS + 2) * MAX_BENCH_ROUND_MB << 20  # of one stream, each way
BENCH_NETWORK_WITHIN_S: Final = 120.0  # all of it: at 10 Mbit/s the full suite takes 95 s

# Exports
MAX_CAR_HEAD_BYTES: Final = 4 << 10  # a root takes 41 bytes
MAX_CAR_ROOTS: Final = 64  # ours have two; a list that anybody wrote needs no more
MAX_ABSENT_LISTED: Final = 1_000  # CIDs a block: 41 KB, below MAX_RECORD_BYTES
MAX_EXCERPT_RECORDS: Final = 500_000  # of one CAR file: verifying holds 0.4 KB a record
MAX_EXCERPT_NAMES: Final = 2_000_000  # parents, absent ones and digests of headers: 0.2 KB each
MAX_DOCUMENT_RECORDS: Final = 50_000  # of one PROV-JSON document, which is built in memory
MAX_SHOWN_CERTIFICATES: Final = 64  # of one author in a CAR file; one in 15 days: over two years
MAX_SHOWN_REVOCATIONS: Final = 16  # lists of meshes in one CAR file: its authors belong to one
MAX_SHOWN_FAULTS: Final = 100  # of one verification; the rest is a count
