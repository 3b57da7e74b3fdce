-- Sends the requests of a file in turn (loads/requests.py writes it) and prints one line of JSON at the end.
--
--   wrk -t1 -c64 -d2s -s wrk.lua http://127.0.0.1:8000 -- requests.bin

local requests, count, at = {}, 0, 0
local threads = {}

others = 0 -- answers other than 200; wrk itself counts only those above 399

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  while true do
    local length = file:read(4)
    if not length then break end
    local a, b, c, d = length:byte(1, 4)
    count = count + 1
    requests[count] = file:read(((a * 256 + b) * 256 + c) * 256 + d)
  end
  file:close()
end

function request()
  at = at % count + 1
  return requests[at]
end

function response(status)
  if status ~= 200 then others = others + 1 end
end

function done(summary, latency)
  local unlike = 0
  for _, thread in ipairs(threads) do unlike = unlike + thread:get("others") end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "not_200": %d, "connect": %d, "read": %d, ' ..
    '"write": %d, "timeout": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.duration, unlike, errors.connect, errors.read,
    errors.write, errors.timeout, latency:percentile(50), latency:percentile(99)))
end
