--- Numbers among the options of commands: what argparse converts texts with.
--
--   command:option('--slots'):convert(numbers.whole('--slots', 1))

local numbers = {}

--- Whole numbers from low to high, or of at least low (and below 2^31).
function numbers.whole(name, low, high)
  return function(text)
    local value = tonumber(text)
    if value and value % 1 == 0 and value >= low and value <= (high or 2 ^ 31 - 1) then
      return value
    end
    local range = high and ('from %d to %d'):format(low, high) or ('of at least %d'):format(low)
    return nil, ("%s is '%s'; it must be a whole number %s"):format(name, text, range)
  end
end

--- Numbers above 0.
function numbers.positive(name)
  return function(text)
    local value = tonumber(text)
    if value and value > 0 and value < math.huge then return value end
    return nil, ("%s is '%s'; it must be a number above 0"):format(name, text)
  end
end

return numbers
