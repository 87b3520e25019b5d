-- Every request a URL that nobody has asked for before: PREFIX/0, PREFIX/1, ...
-- The request is put together here: wrk.format costs more than the server's answer.
local head, tail, n
function init(args)
  head, tail = wrk.format(nil, args[1] .. "/@"):match("^(.-)@(.*)$")
  n = 0
end
function request()
  n = n + 1
  return head .. n .. tail
end
