-- DEPTH requests in one write; wrk counts the responses.
local batch
function init(args)
  batch = string.rep(wrk.format(), tonumber(args[1]))
end
function request()
  return batch
end
